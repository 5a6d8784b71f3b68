"""The tables of a report, as HTML in which every number is a link to where it can be seen.

Texts are untrusted: all of them go through `html.escape`, here and nowhere else.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from gentrace.errors import ViewError
from gentrace.reports.choosing import Replay, Target, start
from gentrace.reports.plots import Contrast, models, shown
from gentrace.studies import Study
from gentrace.views.labels import label, running
from gentrace.views.study_contrast import read_contrast
from gentrace.views.study_tables import Means, Sample, means, number, read_sample

MOST_HEADS = 100_000
"""More than any layer has, so that heads sort by layer first."""
TOKENS = 400
"""Rows of a table token by token."""


def link(text: str, target: Target | None, hint: str = "") -> str:
    """A number that leads to a replay; without one, just the number."""
    if target is None:
        return escape(text)
    address = f"#replay={target.trace}.{target.layer}.{target.head}.{target.step}"
    said = f' title="{escape(hint)}"' if hint else ""
    return f'<a href="{address}"{said}>{escape(text)}</a>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, sortable: bool = False, caption: str = "") -> str:
    """A table; cells are HTML, headings are text. The first column names a row."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        "<tr>" + f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    kind = ' class="sortable"' if sortable else ""
    words = f"<caption>{escape(caption)}</caption>" if caption else ""
    frame = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption or head[0])}">'
    return f"{frame}<table{kind}>{words}<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"


def heads_table(
    study: Study,
    model: str,
    places: Mapping[str, Mapping[tuple[int, int], Target]],
    replays: Sequence[Replay],
    units: str,
    level: float,
) -> str:
    """A row a head, a column a measure: the mean over prompts with its interval, and the way to its replay."""
    found: list[tuple[str, Sample, Means]] = []
    for measure in shown(study):
        if study.measures[measure].table == "heads":
            try:
                sample = read_sample(study, measure, units=units, where={"model": model})
            except ViewError:
                continue
            found.append((measure, sample, means(sample.groups[0], level)))
    if not found:
        return ""
    cells = sorted({cell for _, sample, _ in found for cell in sample.cells})
    rows: list[list[str]] = []
    for cell in cells:
        layer, head = cell
        first = next((places[name].get((layer, head)) for name, _, _ in found if name in places), None)
        named = link(f"{layer}.{head}", first, f"replay layer {layer}, head {head}")
        row = [f'<span data-value="{layer * MOST_HEADS + head}">{named}</span>']
        for name, sample, summary in found:
            if cell not in sample.cells:
                row.append("")
                continue
            at = sample.cells.index(cell)
            target = places.get(name, {}).get((layer, head))
            hint = "" if target is None else f"largest in generation {replays[target.trace].number}, row {target.step}"
            ends = f"{number(summary.low[at])} … {number(summary.high[at])}"
            mean = float(summary.mean[at])
            row.append(f'<span data-value="{mean:.8g}">{link(number(mean), target, hint)}</span> <small>{ends}</small>')
        rows.append(row)
    names = [f"{name}{f' ({sample.unit})' if sample.unit else ''}" for name, sample, _ in found]
    many = max(len(sample.groups[0].units) for _, sample, _ in found)
    caption = (
        f"{model}, a row a head, named layer.head: mean over {many} {found[0][1].several}; small: "
        f"{level:.0%} interval of each cell alone, BCa bootstrap over {found[0][1].several}"
    )
    return table(["head", *names], rows, sortable=True, caption=caption)


def contrast_table(study: Study, contrasts: Sequence[Contrast], units: str, level: float) -> str:
    """A row for each measure and contrast, heads averaged: the difference, effect sizes and the test by name."""
    rows: list[list[str]] = []
    for factor, values in contrasts:
        for measure in shown(study):
            for model in models(study):
                try:
                    one = read_contrast(
                        study, measure, factor, values, units=units, where={"model": model}, level=level, cells=False
                    )
                except ViewError:
                    continue
                first, second = one.names
                of = f" · {model}" if len(models(study)) > 1 else ""
                unit = f" {one.sample.unit}" if one.sample.unit else ""
                ends = f"{number(one.low[0])} … {number(one.high[0])}"
                rows.append(
                    [
                        escape(f"{measure}{of}"),
                        escape(f"{factor}: {first} − {second}"),
                        escape(f"{number(one.difference[0])}{unit}"),
                        f"{escape(ends)}",
                        number(one.d[0]),
                        number(one.delta[0]),
                        number(one.p[0]),
                        escape(f"{one.test}; {one.units}"),
                    ]
                )
    if not rows:
        return ""
    head = ["measure", "contrast", "difference", f"{level:.0%} interval", "Cohen’s d", "Cliff’s δ", "p", "test of p"]
    caption = (
        "heads and tokens averaged; intervals of differences of means by percentile bootstrap; p one by one, not "
        "corrected for the number of rows"
    )
    return table(head, rows, caption=caption)


def generations_table(
    study: Study,
    distances: Mapping[str, float],
    replays: Sequence[Replay],
    last: Mapping[str, tuple[int, int]],
    most: int,
) -> str:
    """A row a generation: what it was, its numbers, and the way to its replay.

    Args:
        study: The study.
        distances: Generation → how far from the middle.
        replays: What the report carries.
        last: Model → layer and head that a row without a head of its own shows.
        most: Rows at most; replayed generations always stand there.
    """
    own = {replay.generation: place for place, replay in enumerate(replays)}
    scalars = [name for name in shown(study) if study.measures[name].table == "generations"]
    frame: Any = study.generations()
    columns = ["model", "decoding", "seed", *study.factors]
    columns = [name for name in columns if frame[name].astype(str).nunique() > 1]
    texts = study.prompts().set_index("prompt_id")["text"]
    order = sorted(range(len(frame)), key=lambda place: frame["generation"].iloc[place] not in own)[:most]
    per_token = _token_means(study)
    rows: list[list[str]] = []
    for place in sorted(order):
        row = frame.iloc[place]
        name = str(row["generation"])
        at = own.get(name)
        target = None if at is None else Target(at, *last[replays[at].model], start(replays[at]))
        written = f"{_short(str(texts[row['prompt_id']]), 70, end=True)}<b>{_short(str(row['completion']), 90)}</b>"
        cells = [link(str(frame.index[place]), target, "replay")]
        for value in [row[column] for column in columns]:
            cells.append(link(str(value), target))
        cells.append(f'<a href="{_address(target)}">{written}</a>' if target else written)
        cells.append(link(str(int(row["new_tokens"])), target))
        for value in [row[column] for column in scalars]:
            cells.append(link(number(float(value)) if value is not None else "—", target))
        for measure, values in per_token.items():
            peak = target if target is None or at is None else _surprising(replays[at], target, measure)
            cells.append(link(number(values.get(name, math.nan)), peak))
        cells.append(link(number(distances.get(name, math.nan)), target))
        cells.append(_way(study, int(frame.index[place]), bool(row["trace"]), at, replays))
        rows.append(cells)
    head = ["generation", *columns, "prompt and continuation", "new tokens", *scalars]
    head += [*(f"{name} (mean)" for name in per_token), "distance from the middle", "replay"]
    left = len(frame) - len(rows)
    caption = f"{len(rows)} of {len(frame)} generations" + (f"; {left} more are in the folder" if left else "")
    return table(head, rows, sortable=True, caption=caption)


def tokens_table(study: Study, replay: Replay, place: int, layer: int, head: int) -> str:
    """A row a token of a replayed generation; each leads to the row that predicted it."""
    names = [name for name in shown(study) if study.measures[name].table == "tokens"]
    frame: Any = study.tokens(
        ["position", "generated", "text", "logprob", "entropy", "rank", *names], generation=replay.generation
    )
    frame = frame.sort_values("position")
    if len(frame) > TOKENS:
        frame = frame.tail(TOKENS)
    rows: list[list[str]] = []
    for row in frame.to_dict("records"):
        position = int(row["position"])
        step = min(max(position - 1, 0), max(replay.trace.length - 1, 0))
        target = Target(place, layer, head, step)
        shown_as = label(str(row["text"]))
        known = float(row["logprob"])
        figures = [
            "—" if math.isnan(known) else f"{math.exp(known):.1%}",
            number(-known + 0.0),
            number(float(row["entropy"])),
            "—" if int(row["rank"]) < 0 else str(int(row["rank"])),
            *(number(float(row[name])) if row[name] is not None else "—" for name in names),
        ]
        word = f"<bdi>{link(shown_as, target)}</bdi>"
        mark = link("given" if not row["generated"] else "written", target)
        rows.append([link(str(position), target), word, mark, *(link(figure, target) for figure in figures)])
    head_names = ["position", "token", "", "probability", "surprise (nats)", "entropy (nats)", "rank", *names]
    return table(head_names, rows, caption=f"generation {replay.number}, token by token")


def quoted(replay: Replay) -> str:
    """A generation's text, what was given apart from what was written."""
    texts, cut = replay.trace.tokens.texts, replay.trace.tokens.prompt_length
    given = _short("".join(texts[:cut]), 300, end=True)
    return f'<span class="given">{given}</span>{_short("".join(texts[cut:]), 500)}'


def _address(target: Target) -> str:
    return f"#replay={target.trace}.{target.layer}.{target.head}.{target.step}"


def _token_means(study: Study) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for measure in shown(study):
        if study.measures[measure].table == "tokens":
            try:
                sample = read_sample(study, measure, units="generation")
            except ViewError:
                continue
            group = sample.groups[0]
            found[measure] = dict(zip(group.units, group.values[:, 0].tolist(), strict=True))
    return found


def _surprising(replay: Replay, target: Target, measure: str) -> Target:
    """The row that predicted the generated token that surprised most, for a mean over tokens."""
    tokens = replay.trace.tokens
    values = -tokens.logprobs[tokens.prompt_length :].double().numpy()
    if not len(values) or np.isnan(values).all():
        return target
    step = tokens.prompt_length - 1 + int(np.nanargmax(values))
    return Target(target.trace, target.layer, target.head, min(step, replay.trace.length - 1))


def _way(study: Study, generation: int, kept: bool, at: int | None, replays: Sequence[Replay]) -> str:
    if at is not None:
        return escape(f"here: {replays[at].why}")
    if not kept or study.manifest["spec"]["keep"]["heads"]:
        return "no trace was kept"
    path = study.trace_path(generation).relative_to(study.folder.root)
    return f"<code>gentrace view {escape(str(path))}</code>"


def _short(text: str, most: int, *, end: bool = False) -> str:
    """A text cut to a length, its end or its beginning kept; escaped, invisible characters shown."""
    clear = running(text).replace("\n", "")
    if len(clear) > most:
        clear = "…" + clear[-most:] if end else clear[:most] + "…"
    return escape(clear)


def plain(rows: Sequence[tuple[str, Any]]) -> str:
    """Facts as a list of names and values, both texts."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in rows) + "</dl>"
