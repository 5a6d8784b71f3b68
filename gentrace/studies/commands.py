"""``gentrace study check | run | verify``: the same doors as in Python, with one clear error for what goes wrong.

Exit codes: 0 when everything is there; 1 when something failed, was stopped or is damaged; 2 for wrong use.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gentrace.errors import GentraceError
from gentrace.studies.errors import counted

if TYPE_CHECKING:
    from gentrace.studies.engine import Engine

SPEC = click.argument("spec", type=click.Path(path_type=Path, dir_okay=False))
SHOWN = 3
"""Reasons for failures that a run names at its end."""
DEVICE = click.option("--device", help="Where models go that the specification gives no device, such as cpu or cuda.")


@click.group()
def study() -> None:
    """Generate from many prompts with many settings, and keep what the models looked at."""


@study.command()
@SPEC
@click.option(
    "--out", type=click.Path(path_type=Path), help="The folder it would run in: what is finished there counts."
)
@DEVICE
def check(spec: Path, out: Path | None, device: str | None) -> None:
    """Say what is wrong with SPEC, or what it would run and what that would take."""
    with clear_errors():
        from gentrace.studies.estimate import estimate
        from gentrace.studies.folder import Folder
        from gentrace.studies.run import plan_study
        from gentrace.studies.spec import load_spec

        folder = Folder("." if out is None else out)
        if out is not None:
            folder.refuse_foreign()
        models, plan = plan_study(load_spec(spec), folder, device=device)
        found = estimate(plan, models, None if out is None else folder)
        click.echo(str(found))
        if found.trouble:
            raise click.exceptions.Exit(1)


@study.command()
@click.argument("spec", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The study's folder.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    help="Where models go that SPEC gives no device, such as cpu or cuda; several times for several workers.",
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who works.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Worker processes; one in this process, or one a device, or with Ray as many as there is room for.",
)
@click.option("--address", help="With Ray: a running cluster, HOST:PORT or auto; without it, one is started here.")
@click.option("--cpus", type=click.FloatRange(min=0), default=1.0, show_default=True, help="With Ray: each worker's.")
@click.option(
    "--gpus",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="With Ray: each worker's; at 0.5, two of them share one GPU.",
)
@click.option("--retry-failed", is_flag=True, help="Do batches again in which something failed.")
@click.option("--prune", is_flag=True, help="Remove finished batches that SPEC plans no more.")
def run(
    spec: Path | None,
    out: Path,
    devices: tuple[str, ...],
    engine: str,
    workers: int | None,
    address: str | None,
    cpus: float,
    gpus: float,
    retry_failed: bool,
    prune: bool,
) -> None:
    """Run SPEC, or go on with it where it was stopped; without SPEC, with what the folder says."""
    if engine == "ray" and devices:
        raise click.UsageError("--device is for workers on this machine: with Ray, --gpus says whether they get a GPU.")
    if engine == "local" and (address is not None or cpus != 1 or gpus):
        raise click.UsageError("--address, --cpus and --gpus need --engine ray.")
    with clear_errors():
        from gentrace.studies.run import run_study
        from gentrace.studies.spec import load_spec

        found = None if spec is None else load_spec(spec)
        doer: Engine | None = None
        if engine == "ray":
            from gentrace.studies.cluster import RayEngine

            doer = RayEngine(address, workers, cpus, gpus)
        elif len(devices) > 1 or (workers or 1) > 1:
            from gentrace.studies.pool import PoolEngine

            doer = PoolEngine(workers, devices)
        device = devices[0] if devices else None
        summary = run_study(
            found, out, engine=doer, device=device, retry_failed=retry_failed, prune=prune, say=_say_above
        )
        click.echo(
            f"{summary.generations - summary.failed} of {summary.generations} generations are in {out}: "
            f"{counted(summary.batches, 'batch', 'batches')} done, {summary.reused} reused, "
            f"{counted(summary.new_tokens, 'new token')}"
        )
        if not summary.ok:
            last = f"see gentrace.studies.open_study({str(out)!r}).failures(); --retry-failed tries them again"
            lines = [f"{counted(summary.failed, 'generation')} failed:", *_reasons(out), last]
            raise click.ClickException("\n".join(lines))


@study.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--batches", default=2, show_default=True, type=click.IntRange(min=0), help="Batches to compute again.")
@click.option("--audit-batches", is_flag=True, help="Also run prompts alone, and say what batching changed.")
@click.option("--sample", default=8, show_default=True, type=click.IntRange(min=1), help="With --audit-batches.")
@click.option("--seed", type=int, help="Of the random choice.")
@DEVICE
def verify(folder: Path, batches: int, audit_batches: bool, sample: int, seed: int | None, device: str | None) -> None:
    """Check the sums of a study's FOLDER, and compute random batches of it again."""
    with clear_errors():
        from gentrace.studies import verify as checks

        found = checks.verify_study(folder, batches=batches, seed=seed, device=device, say=_say)
        click.echo(
            f"{found.identical} of {found.rows} rows are identical; the largest difference is {found.largest:.1e}"
        )
        for line in [*found.damaged, *map(str, found.differences[:10])]:
            click.echo(line, err=True)
        if audit_batches:
            audited = checks.audit_batches(folder, sample=sample, seed=seed, device=device, say=_say)
            for one in audited:
                changed = (
                    "the same text"
                    if one.first is None
                    else f"another text from new token {one.first} of {one.tokens} on"
                )
                apart = f"logprobs differ by {one.largest:.1e}"
                click.echo(f"prompt {one.prompt_id} without its {counted(one.mates, 'mate')}: {changed}, {apart}")
            others = sum(one.first is not None for one in audited)
            click.echo(f"batching changed {others} of {len(audited)} texts")
        if not found.ok:
            raise click.ClickException(
                f"{counted(len(found.damaged), 'file is', 'files are')} damaged, "
                f"{counted(len(found.differences), 'entry differs', 'entries differ')}"
            )


@contextlib.contextmanager
def clear_errors() -> Generator[None]:
    """Turn what a user can cause into a message; a specification's problems keep a line each."""
    try:
        yield
    except GentraceError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise click.ClickException(f"{error.strerror or error}{where}") from error
    except KeyboardInterrupt:
        raise click.ClickException("stopped; the same command goes on") from None


def _reasons(out: Path) -> list[str]:
    """What failed most often in a study, a line each."""
    from gentrace.studies.reading import open_study

    first: dict[tuple[str, str], str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for row in open_study(out).failures().to_dict("records"):
        reason = str(row["stage"]), str(row["error"])
        counts[reason] += 1
        first.setdefault(reason, str(row["prompt"]))
    lines = [
        f"  {stage}: {error} ({counted(count, 'time')}, first with {first[stage, error][:60]!r})"
        for (stage, error), count in counts.most_common(SHOWN)
    ]
    return lines + ([f"  … and {counted(len(counts) - SHOWN, 'other reason')}"] if len(counts) > SHOWN else [])


def _say(line: str) -> None:
    click.echo(line, err=True)


def _say_above(line: str) -> None:
    """Say something while a bar is shown."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
