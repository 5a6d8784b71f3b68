"""What tests of capturing share."""

import pytest

from gentrace.capture import step


@pytest.fixture(params=[step.TOGETHER, 0], ids=["together", "one-by-one"])
def large_or_small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test twice: layers of a prompt are recorded together, or one by one as those of a large model are."""
    monkeypatch.setattr(step, "TOGETHER", request.param)
