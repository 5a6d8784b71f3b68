"""What decoding looked at and did not return, in the page: hypotheses of a beam search, and rejected drafts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gentrace.explorer import explore
from gentrace.trace.decoding import Beams, BeamStep, Draft
from tests.explorer.opened import Opened
from tests.views.made import random_trace

FIRST = BeamStep(6, (0, 0, 0), (1, 2, 3), (" a", "<b>", " c"), (-0.5, -1.0, -2.0), (-0.5, -1.0, -2.0), (1, 0, -1),
                 (False, False, False), 1)  # fmt: skip
SECOND = BeamStep(7, (0, 1, 0), (4, 5, 6), (" d", " e", " f"), (-1.5, -1.75, -4.0), (-0.5, -1.25, -3.0), (0, -1, -1),
                  (False, True, False), 0)  # fmt: skip


@pytest.mark.browser
def test_beams_and_drafts_are_shown(browser: Any, tmp_path: Path) -> None:
    drafts = (Draft(8, 9, " no<i>", -2.0), Draft(8, 10, "pe", -3.0))
    trace = replace(random_trace(12, 6), beams=Beams(2, (FIRST, SECOND)), drafts=drafts)
    opened = Opened(browser, explore(trace).write_html(tmp_path / "page.html"), "step=6")
    told = opened.page.locator(".beams .scroller").get_attribute("aria-label")
    assert told == "Beam search at token 7: ␣d −1.50 goes on as beam 0, chosen; ␣e −1.75 ended; ␣f −4.00 pruned"
    box = opened.page.locator(".beams .scroller").bounding_box()
    opened.page.locator(".beams .scroller").scroll_into_view_if_needed()
    box = opened.page.locator(".beams .scroller").bounding_box()
    opened.page.mouse.move(box["x"] + 44 + 170 * 1.5, box["y"] + 46 * 0.5)
    assert opened.tip()["token token"] == "<b>"
    assert opened.tip()["score"] == "−1.0000 nats"
    assert opened.tip()["probability"] == "36.8 %"
    opened.page.mouse.click(box["x"] + 60, box["y"] + 20)
    assert opened.state()["step"] == 5
    ghosts = opened.page.locator("#panel-replay .text .running:not(.source) .ghost")
    assert ghosts.all_text_contents() == [" no<i>", "pe"]
    assert ghosts.first.is_hidden()
    opened.page.evaluate("explorer.set({step: 7})")
    assert ghosts.first.is_visible()
    assert ghosts.first.get_attribute("title") == "␣no<i>: drafted here and rejected, probability 13.5 %"
    opened.press("5")
    assert opened.page.locator("#panel-tokens .ghost").count() == 2
    opened.press("4")
    assert opened.page.locator(".identity dd").count() == 4
    opened.close()


@pytest.mark.browser
def test_without_them_nothing_is_said_of_them(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, explore(random_trace(12, 6)).write_html(tmp_path / "page.html"))
    assert opened.page.locator(".beams").is_hidden()
    assert opened.page.locator(".ghost:visible").count() == 0
    opened.close()
