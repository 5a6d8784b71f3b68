"""The training script and its corpus, importable here, and the story model, loaded once."""

import sys
from pathlib import Path
from typing import Any

import pytest

from gentrace.demo import load_story_model

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


@pytest.fixture(scope="session")
def story() -> tuple[Any, Any]:
    return load_story_model()
