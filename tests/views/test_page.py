"""The exported page, looked at as text."""

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from plotly.offline import get_plotlyjs

from gentrace.errors import ViewBudgetError, ViewError
from gentrace.views import replay_page
from gentrace.views.page import SCRIPTS
from tests.views.made import HOSTILE, random_trace, untouchable
from tests.views.made_kinds import searched, translator


class Reader(HTMLParser):
    """Collects script bodies, and every attribute that could make a browser fetch something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.fetches: list[tuple[str, str | None]] = []
        self.policy = ""
        self._attributes: dict[str, str | None] | None = None
        self._text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetches += [pair for pair in attrs if pair[0] in {"src", "href", "srcset", "data", "action", "background"}]
        attributes = dict(attrs)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"] or ""
        if tag == "script":
            self._attributes, self._text = attributes, ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._attributes is not None:
            self.scripts.append((self._attributes, self._text))
            self._attributes = None

    def element(self, name: str) -> str:
        return next(text for attributes, text in self.scripts if attributes.get("id") == name)


def payload(page: str) -> dict:
    return json.loads(Reader(page).element("payload"))


def matrices(page: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and scores of each head in the page, NaN above the diagonal, read as its format says."""
    data = payload(page)
    raw = base64.b64decode(Reader(page).element("matrices"))
    (start, stop), heads = data["rows"], len(data["heads"])
    rows = stop - start
    denominators = np.frombuffer(raw, "<f4", heads * rows).reshape(heads, rows)
    codes = np.frombuffer(raw, "<f2", offset=denominators.nbytes).reshape(heads, -1)
    lower = np.arange(stop) <= np.arange(start, stop)[:, None]
    both = []
    for head in range(heads):
        logs = np.full((rows, stop), np.nan)
        logs[lower] = codes[head]
        both.append((np.exp(logs), logs + denominators[head][:, None]))
    return both


def check_precision(weights: np.ndarray, true: np.ndarray) -> None:
    """As the page states it: 0.4 % above 1e-6; below, a float16 logarithm."""
    stated = ~(true < 1e-6)
    assert stated.sum() > 10
    np.testing.assert_allclose(weights[stated], true[stated], rtol=0.004)
    assert (weights[~stated] < 1.01e-6).all()


@pytest.mark.parametrize(("unseen", "window"), [(0, None), (3, None), (0, 4)])
def test_the_page_holds_weights_and_scores_to_the_precision_it_states(unseen: int, window: int | None) -> None:
    trace = random_trace(40, 10, layers=(1, 4), unseen=unseen, window=window)
    page = replay_page(trace, layers=[4, 1])
    assert [(head["layer"], head["head"]) for head in payload(page)["heads"]] == [(4, 0), (4, 1), (1, 0), (1, 1)]
    lower = np.tril(np.ones((39, 39), bool))
    for (weights, scores), (layer, head) in zip(matrices(page), [(4, 0), (4, 1), (1, 0), (1, 1)], strict=True):
        check_precision(weights[lower], trace.attention(layer, head).numpy()[lower])
        stated = lower & ~(trace.attention(layer, head).numpy() < 1e-6)
        np.testing.assert_allclose(scores[stated], trace.scores(layer, head).numpy()[stated], atol=0.004)
        np.testing.assert_array_equal(np.isinf(scores[lower]), trace.scores(layer, head).isinf().numpy()[lower])


def test_learned_sinks_keep_weights_and_scores_apart() -> None:
    from dataclasses import replace

    trace = random_trace(20, 5)
    trace = replace(trace, layers=(replace(trace.layers[0], sinks=(1.5, -2.0)),))
    assert trace.attention(0, 0).sum(-1).max() < 0.95
    weights, scores = matrices(replay_page(trace, heads=0))[0]
    lower = np.tril(np.ones((19, 19), bool))
    check_precision(weights[lower], trace.attention(0, 0).numpy()[lower])
    np.testing.assert_allclose(scores[lower], trace.scores(0, 0).numpy()[lower], atol=0.01)


def test_cross_attention_travels_with_every_key_of_the_source() -> None:
    trace = translator()
    page = replay_page(trace)
    data, raw = payload(page), base64.b64decode(Reader(page).element("matrices"))
    assert [(one["kind"], one["head"]) for one in data["heads"]] == [
        ("self", 0), ("self", 1), ("cross", 0), ("cross", 1)
    ]  # fmt: skip
    assert data["initial"]["kind"] == "cross"
    assert data["source"]["labels"] == [f"en{place}" for place in range(6)]
    denominators = np.frombuffer(raw, "<f4", 16).reshape(4, 4)
    logs = np.frombuffer(raw, "<f2", offset=64)
    assert len(logs) == 2 * 10 + 2 * 24
    for head in range(2):
        own = logs[20 + 24 * head :][:24].reshape(4, 6).astype(np.float32)
        check_precision(np.exp(own), trace.attention(0, head, kind="cross").numpy())
        scores = own + denominators[2 + head][:, None]
        np.testing.assert_allclose(scores, trace.scores(0, head, kind="cross").numpy(), atol=0.004)
    only = payload(replay_page(trace, heads=1, kind="self"))
    assert ([one["kind"] for one in only["heads"]], only["initial"]["kind"]) == (["self"], "self")
    assert only["initial"]["sinks"] == {"self": "mask", "cross": "keep"}


def test_beams_travel_unless_they_are_not_wanted() -> None:
    trace = searched(random_trace(12, 8))
    assert trace.beams is not None
    tree = payload(replay_page(trace))["tree"]
    assert (tree["start"], tree["width"], tree["root"]) == (8, 2, "␣word0")
    flat = [score for step in trace.beams.steps for score in step.scores]
    assert tree["hypotheses"]["score"] == flat
    assert payload(replay_page(trace, beams=False))["tree"] is None
    assert payload(replay_page(random_trace(12, 8)))["tree"] is None


def test_a_part_of_the_rows() -> None:
    trace = random_trace(40, 10)
    weights, _ = matrices(replay_page(trace, heads=1, rows=(30, 34)))[0]
    true = trace.attention(0, 1).numpy()[30:34, :34]
    np.testing.assert_allclose(weights[~np.isnan(weights)], true[~np.isnan(weights)], rtol=0.004)
    assert np.isnan(weights).sum() == 3 + 2 + 1


def test_steps_carry_the_numbers_of_entry_p_plus_1() -> None:
    steps = payload(replay_page(random_trace(12, 4)))["steps"]
    assert [(step["query"], step["predicts"]) for step in steps] == [(row, row + 1) for row in range(11)]
    assert steps[6]["probability"] == 0.5
    assert steps[6]["sampled"] == pytest.approx(2 / 3, rel=1e-5)
    assert steps[6]["alternatives"][0] == {"label": "␣word0", "probability": 0.5, "sampled": 0.666667, "chosen": True}
    assert steps[1]["sampled"] is None


def test_hostile_tokens_stay_inside_the_json() -> None:
    plain = replay_page(random_trace(len(HOSTILE), 4))
    page = replay_page(random_trace(len(HOSTILE), 4, texts=HOSTILE), title="<i>&amp;")
    assert len(Reader(page).scripts) == len(Reader(plain).scripts) == 3 + len(SCRIPTS)
    text = Reader(page).element("payload")
    assert not set("<>&\u2028\u2029") & set(text)
    assert page.encode()
    assert payload(page)["labels"][:4] == ["<s>", "<b>x</b>", "</script>", "&lt;"]
    assert payload(page)["labels"][16] == "$payload"
    outside = page.replace(text, "")
    for token in ("<b>x", "onerror", "<i>"):
        assert token not in outside
    assert "<title>&lt;i&gt;&amp;amp;</title>" in page


def test_the_page_fetches_nothing() -> None:
    page = replay_page(random_trace(12, 4))
    reader = Reader(page)
    assert reader.fetches == []
    # Base64 may spell anything.
    for encoded in (reader.element("matrices"), reader.element("plotly"), reader.policy):
        page = page.replace(encoded, "")
    without_comments = re.sub(r"^\s*//.*$", "", page, flags=re.MULTILINE)
    assert not re.search(r"https?:|//\w|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|import\(", without_comments)


def test_the_policy_allows_exactly_the_scripts_that_are_shipped() -> None:
    reader = Reader(replay_page(random_trace(12, 4)))
    assert reader.policy.startswith("default-src 'none'; script-src 'sha256-")
    script_sources = reader.policy.split("script-src ")[1].split(";")[0]
    assert "unsafe" not in script_sources
    own = [text for attributes, text in reader.scripts if "type" not in attributes]
    plotly = zlib.decompress(base64.b64decode(reader.element("plotly"))).decode()
    assert plotly == get_plotlyjs()
    expected = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in [*own, plotly]]
    assert script_sources.split() == [f"'sha256-{digest}'" for digest in expected]


def test_no_script_writes_markup() -> None:
    own = [text for attributes, text in Reader(replay_page(random_trace(12, 4))).scripts if "type" not in attributes]
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setTimeout\(['\"]"
    assert len(own) == len(SCRIPTS)
    assert [re.findall(forbidden, text) for text in own] == [[]] * len(own)


def test_size_grows_with_the_square_of_the_tokens() -> None:
    empty, small, large = (len(replay_page(random_trace(length, 10), heads=0)) for length in (12, 300, 600))
    assert (large - empty) / (small - empty) < 4.2


def test_what_cannot_be_shown_is_refused() -> None:
    trace = random_trace(8, 3)
    with pytest.raises(ViewError, match=r"drawing layer 7. layers recorded: 0"):
        replay_page(trace, layers=[0, 7])
    with pytest.raises(ViewError, match="drawing head 5 of layer 0"):
        replay_page(trace, heads=[1, 5])
    with pytest.raises(ViewError, match=r"no cross-attention. choose kind='self'"):
        replay_page(trace, kind="cross")
    with pytest.raises(ViewError, match=r"drawing layer 7. layers recorded: 0"):
        replay_page(translator(), layers=7)
    with pytest.raises(ViewError, match="what='heads'"):
        replay_page(trace, what="heads")  # pyright: ignore[reportArgumentType]


def test_too_big_a_page_is_refused_before_anything_is_read() -> None:
    trace = untouchable(random_trace(5001, 10, heads=2))
    with pytest.raises(ViewBudgetError, match=r"25,005,000 cells; at most 16,000,000 fit.*heads=.*rows="):
        replay_page(trace)
    with pytest.raises(AssertionError, match="was read"):
        replay_page(trace, heads=0, rows=(4900, 5000))


def test_more_keys_than_a_canvas_has_columns_are_refused() -> None:
    from dataclasses import replace

    trace = replace(untouchable(random_trace(30, 10)), length=20_000)
    with pytest.raises(ViewBudgetError, match="16,384 columns"):
        replay_page(trace, rows=(19_990, 20_000))


def test_the_page_builds_on_what_torch_gives_for_a_single_row() -> None:
    weights, scores = matrices(replay_page(random_trace(2, 1), heads=0))[0]
    assert weights.tolist() == [[1.0]]
    assert torch.tensor(scores).isfinite().all()
