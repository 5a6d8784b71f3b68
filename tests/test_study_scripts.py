"""The example studies in their quick form: what they say, against their tables, by plain pandas and SciPy."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gentrace.studies import open_study
from gentrace.views.study_tables import Group
from scripts.studies import decoding, facts, heads
from scripts.studies.capitals import CAPITALS


def test_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {one.kind: one for one in heads.main(["--quick", "--out", str(tmp_path / "heads"), "--no-report"])}
    said = capsys.readouterr().out
    study = open_study(tmp_path / "heads")
    frame = study.heads()
    for kind, column, own, other in (
        ("previous-token", "previous_token_score", "text", "repeated"),
        ("induction", "induction_score", "repeated", "text"),
        ("sink", "first_token_mass", "text", "repeated"),
    ):
        of_kind = frame[frame["kind"] == own]
        chosen = of_kind[of_kind["half"] == 0].groupby(["layer", "head"])[column].mean().idxmax()
        assert found[kind].head == chosen
        fresh = of_kind[(of_kind["half"] == 1) & (of_kind["layer"] == chosen[0]) & (of_kind["head"] == chosen[1])]
        assert found[kind].fresh[0] == pytest.approx(fresh[column].mean())
        low, high = found[kind].fresh[1:]
        assert fresh[column].min() - 1e-9 <= low <= found[kind].fresh[0] <= high <= fresh[column].max() + 1e-9
        # Of three texts no test can say anything at 0.05.
        assert found[kind].many == 0
        rest = frame[(frame["kind"] == other) & (frame["layer"] == chosen[0]) & (frame["head"] == chosen[1])]
        assert found[kind].other[0] == pytest.approx(rest[column].mean())
        assert f"strongest {kind} head: layer {chosen[0]} head {chosen[1]}, " in said
    # Random words are one token each and stand twice.
    for name in study.generations().query("kind == 'repeated'").index:
        tokens = study.trace(int(name)).tokens
        half = tokens.prompt_length // 2
        assert tokens.ids[:half].tolist() == tokens.ids[half : 2 * half].tolist()
    # The story model's planted head and one of its induction heads, which tests/demo finds in another way.
    assert found["previous-token"].fresh[0] > 0.9
    assert found["induction"].fresh[0] > 0.8


def test_heads_that_are_clearly_of_a_kind() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([0.5 + 0.1 * rng.random(12), 0.5 + 0.1 * rng.standard_normal(12), np.full(12, np.nan)])
    p = stats.wilcoxon(values[:, 0] - 0.5, alternative="greater").pvalue
    assert p * 3 < 0.05
    assert heads.clearly(Group("", tuple("abcdefghijkl"), values)) == 1


def test_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "page.html"
    found = decoding.main(["--quick", "--out", str(tmp_path / "decoding"), "--report", str(report)])
    said = capsys.readouterr().out
    study = open_study(tmp_path / "decoding")
    tokens = study.tokens(generated=True)
    means = (-tokens["logprob"]).groupby([tokens["decoding"], tokens["prompt_id"]], observed=True).mean().unstack(0)
    for setting in ("greedy", "sample"):
        assert found.surprise[setting][0] == pytest.approx(means[setting].mean(), rel=1e-5)
        lines = [
            np.polyfit(np.arange(12), -part.sort_values("position")["logprob"], 1)[0]
            for _, part in tokens[tokens["decoding"] == setting].groupby("prompt_id", observed=True)
        ]
        assert found.slopes[setting][0] == pytest.approx(np.mean(lines), rel=1e-4)
    slopes = {
        setting: [
            np.polyfit(np.arange(12), -part.sort_values("position")["logprob"], 1)[0]
            for _, part in tokens[tokens["decoding"] == setting].groupby("prompt_id", observed=True)
        ]
        for setting in ("greedy", "sample")
    }
    apart = np.subtract(slopes["greedy"], slopes["sample"])
    assert found.slope_difference[0] == pytest.approx(apart.mean(), rel=1e-4)
    assert apart.min() <= found.slope_difference[1] <= found.slope_difference[2] <= apart.max()
    assert found.difference.difference[0] == pytest.approx((means["greedy"] - means["sample"]).mean(), rel=1e-5)
    assert found.difference.p[0] == pytest.approx(stats.wilcoxon(means["greedy"], means["sample"]).pvalue)
    frame = study.heads()
    back = frame.groupby(["decoding", "prompt_id"], observed=True)["lookback_ratio"].mean().unstack(0)
    assert found.lookback["greedy"][0] == pytest.approx(back["greedy"].mean())
    pairs = frame.pivot_table("lookback_ratio", ["layer", "head", "prompt_id"], "decoding", observed=True)
    p = [stats.wilcoxon(one["greedy"], one["sample"]).pvalue for _, one in pairs.groupby(["layer", "head"])]
    clear = int((stats.false_discovery_control(p) <= 0.05).sum())
    assert sum(map(int, re.findall(r"heads, (\d+) look back more and (\d+) less", said)[0])) == clear
    assert report.stat().st_size > 1_000_000
    assert "greedy − sample" in report.read_text("utf-8")


def test_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts.main(["--quick", "--out", str(tmp_path / "facts"), "--no-report"])
    said = capsys.readouterr().out
    study = open_study(tmp_path / "facts")
    generations = study.generations()
    rows = study.prompts().set_index("prompt_id")
    for condition, part in generations.groupby("condition", observed=True):
        right = sum(
            str(text).strip().startswith(CAPITALS[str(country)])
            for text, country in zip(part["completion"], part["country"], strict=True)
        )
        assert found.right[str(condition)] == (right, 6)
        cities = [re.search(r"is (\w+)\. The", rows.loc[name, "text"]) for name in part["prompt_id"].astype(str)]
        if condition == facts.NONE:
            assert cities == [None] * 6
            continue
        followed = sum(
            str(text).strip().startswith(city[1])
            for text, city in zip(part["completion"], cities, strict=True)
            if city is not None
        )
        assert found.followed[str(condition)] == (followed, 6)
    assert found.fewer[0] - found.fewer[1] == found.right[facts.NONE][0] - found.right[facts.MISLEADING][0]
    frame = study.heads(condition=[facts.MISLEADING, facts.OTHER])
    pairs = frame.pivot_table("city_attention", ["layer", "head", "country"], "condition", observed=True)
    change = pairs[facts.MISLEADING] - pairs[facts.OTHER]
    for place, cell in enumerate(found.relevant.sample.cells):
        assert found.relevant.difference[place] == pytest.approx(change.loc[cell].mean())
        assert found.relevant.p[place] == pytest.approx(stats.wilcoxon(change.loc[cell]).pvalue)
    assert "Wilcoxon signed-rank test over pairs, 6 pairs, one a country" in said
    # The weight on the city, from a trace and nothing else.
    number = int(generations.query(f"condition == '{facts.OTHER}'").index[0])
    trace, row = study.trace(number), generations.loc[number]
    found_city = re.search(r"is (\w+)\. The", rows.loc[str(row["prompt_id"]), "text"])
    assert found_city is not None
    ends = np.cumsum([len(text) for text in trace.tokens.texts])
    middles = ends - np.array([len(text) for text in trace.tokens.texts]) / 2
    keys = np.flatnonzero((middles >= found_city.start(1)) & (middles < found_city.end(1)))
    weight = trace.attention(1, 2)[trace.tokens.prompt_length - 1, keys].sum()
    own = study.heads(generation=str(row["generation"]), layer=1, head=2)["city_attention"]
    assert float(own.item()) == pytest.approx(float(weight), abs=1e-5)
    assert isinstance(own, pd.Series)
