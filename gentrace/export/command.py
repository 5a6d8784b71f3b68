"""``gentrace picture``: a saved trace in, a picture out, with a view's arguments checked before it is drawn."""

import contextlib
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import click

from gentrace.errors import GentraceError

if TYPE_CHECKING:
    from gentrace.trace.trace import Trace

VIEWS = (
    "attention_grid",
    "attention_map",
    "attention_table",
    "beam_tree",
    "compare",
    "head_view",
    "model_view",
    "neuron_view",
    "replay",
    "token_strip",
)
PACE = 350
"""Milliseconds of a GIF's frame."""
TRACES = ("trace", "trace_a", "trace_b")


@click.command()
@click.argument("path", metavar="TRACE", type=click.Path(path_type=Path))
@click.argument("other", metavar="[OTHER]", required=False, type=click.Path(path_type=Path))
@click.option("--view", default="attention_map", show_default=True, type=click.Choice(VIEWS), help="What to draw.")
@click.option("--layer", type=int, help="The model's own layer number.")
@click.option("--head", type=int, help="A query head.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other argument of the view, such as dark=true, queries=generated or heads=[0,2].",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="FILE.png, .svg or .pdf; .html still answers the pointer; .gif animates a replay.",
)
@click.option("--frames", is_flag=True, help="Write a replay's frames, numbered PNGs, into the folder --out.")
@click.option("--milliseconds", type=click.IntRange(min=20), help=f"Of a GIF's frame; {PACE} if not said.")
@click.option("--width", type=click.IntRange(min=1), help="Pixels.")
@click.option("--height", type=click.IntRange(min=1), help="Pixels.")
@click.option("--scale", type=click.FloatRange(min=0, min_open=True), help="Pixels of the file for each of these.")
def picture(
    path: Path,
    other: Path | None,
    view: str,
    layer: int | None,
    head: int | None,
    options: tuple[str, ...],
    out: Path,
    frames: bool,
    milliseconds: int | None,
    **size: Any,
) -> None:
    """Draw a TRACE into a file, offline; --view compare needs an OTHER one."""
    animated = not frames and out.suffix.lower() == ".gif"
    with one_line_errors():
        if (other is None) == (view == "compare"):
            raise click.UsageError("--view compare takes two traces, every other view one")
        if milliseconds and not animated:
            raise click.UsageError("--milliseconds is for a GIF: --out FILE.gif")
        paged = not frames and out.suffix.lower() == ".html"
        if paged and any(size.values()):
            raise click.UsageError("a page takes the size that it is given: leave --width, --height and --scale out")
        import gentrace.views
        from gentrace import export
        from gentrace.trace.file import load

        draw = getattr(gentrace.views, view)
        given = checked(draw, view, layer, head, options)
        traces: list[Trace] = [load(one) for one in (path, other) if one is not None]
        figure, sized = draw(*traces, **given), {name: value for name, value in size.items() if value is not None}
        if frames:
            export.frames(figure, out, **sized)
        elif animated:
            export.gif(figure, out, **sized, milliseconds=milliseconds or PACE)
        elif paged:
            export.page(figure, out)
        else:
            export.picture(figure, out, **sized)
    click.echo(out.resolve())


def checked(
    draw: Callable[..., Any], view: str, layer: int | None, head: int | None, options: Sequence[str]
) -> dict[str, Any]:
    """The arguments for a view, as what they should be.

    Args:
        draw: The view.
        view: Its name.
        layer: What ``--layer`` said.
        head: What ``--head`` said.
        options: Each ``name=value``; a value is read as YAML.

    Raises:
        click.UsageError: If the view has no such argument, needs one more, or cannot use a value.
    """
    parameters = inspect.signature(draw).parameters
    known = {name: value for name, value in parameters.items() if name not in TRACES}
    given = _chosen(known, view, layer, head)
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or name not in known:
            raise click.UsageError(f"--option {option!r} is not name=value of {view}; names: {', '.join(known)}")
        if name in given:
            raise click.UsageError(f"{name} of {view} is given twice")
        given[name] = _read(option, text)
    missing = [name for name, value in known.items() if value.default is value.empty and name not in given]
    if missing:
        raise click.UsageError(f"{view} needs {', '.join(map(_flag, missing))}")
    hints = get_type_hints(draw)
    return {name: _valid(name, value, hints[name]) for name, value in given.items()}


def _chosen(known: Mapping[str, object], view: str, layer: int | None, head: int | None) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for singular, value in (("layer", layer), ("head", head)):
        names = [name for name in (singular, f"{singular}s") if name in known]
        if value is not None and not names:
            raise click.UsageError(f"{view} has no {singular} to choose")
        if value is not None:
            given[names[0]] = value
    return given


def _flag(name: str) -> str:
    return f"--{name}" if name in ("layer", "head") else f"--option {name}=…"


def _read(option: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise click.UsageError(f"--option {option!r} cannot be read: put quotes around what is text") from None


def _valid(name: str, value: Any, hint: Any) -> Any:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except PydanticSchemaGenerationError:
        raise click.UsageError(f"{name} can only be given in Python") from None
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(one["msg"].removeprefix("Input should be ") for one in error.errors()))
        raise click.UsageError(f"{name}={value!r}: should be {wanted}") from None


@contextlib.contextmanager
def one_line_errors() -> Generator[None]:
    """Turn what a user can cause into one line."""
    try:
        yield
    except click.UsageError as error:
        raise click.ClickException(error.message) from error
    except GentraceError as error:
        raise click.ClickException(" ".join(str(error).split())) from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise click.ClickException(f"{error.strerror or error}{where}") from error
