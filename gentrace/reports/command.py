"""``gentrace study report``: the same door as `gentrace.reports.report`."""

from pathlib import Path

import click

from gentrace.studies.commands import clear_errors


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The page. Default: FOLDER/report.html.")
@click.option("--replays", default=6, show_default=True, type=click.IntRange(min=0), help="Of each model.")
@click.option("--max-bytes", type=click.IntRange(min=1), help="Of the replays' matrices, before they are deflated.")
@click.option("--units", default="prompt_id", show_default=True, help="Column whose values are independent.")
@click.option("--contrast", "contrasts", multiple=True, help="FACTOR, or FACTOR=FIRST,SECOND. Default: all with two.")
def report(
    folder: Path, out: Path | None, replays: int, max_bytes: int | None, units: str, contrasts: tuple[str, ...]
) -> None:
    """Write what the study in FOLDER found as one offline page."""
    with clear_errors():
        from gentrace.explorer.plan import BUDGET
        from gentrace.reports.page import report as make
        from gentrace.studies.reading import open_study

        asked = [_contrast(text) for text in contrasts] or None
        page = folder / "report.html" if out is None else out
        study = open_study(folder)
        found = make(study, page, replays=replays, max_bytes=max_bytes or BUDGET, units=units, contrasts=asked)
        click.echo(f"{page.resolve()}: {len(found.html) / 1e6:.1f} MB, {len(found.replays)} replays")


def _contrast(text: str) -> tuple[str, tuple[object, object] | None]:
    factor, equal, values = text.partition("=")
    first, comma, second = values.partition(",")
    if equal and not (comma and first and second):
        raise click.UsageError(f"--contrast {text!r}: write FACTOR=FIRST,SECOND")
    return factor, (first, second) if equal else None
