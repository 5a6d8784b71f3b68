"""The command line: ``gentrace run``, ``demo``, ``view``, ``picture``, ``study`` and ``info``.

Bad input ends in one line and a non-zero exit code. A finished trace is never lost: it is written before its page, and
somewhere else if the place that was asked for fails.
"""

import contextlib
import errno
import os
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import gentrace
from gentrace.errors import GentraceError
from gentrace.export.command import picture
from gentrace.liveview.command import Shown, parse_shown
from gentrace.reports.command import report
from gentrace.studies.commands import study

if TYPE_CHECKING:
    from gentrace.trace.trace import Trace

STORY = "Maia is a cute little baby who likes to explore her world!"
OPENINGS = {"translator": "She sees the small elephant."}
MOST_LAYERS = 10_000
MODEL_HELP = "'story', 'translator' (bundled), 'smollm2' (fetched once), or any Hugging Face name or folder."


class OneLine(click.ClickException):
    """An error that is shown as one line."""

    def __init__(self, message: str) -> None:
        """Fold the message into one line."""
        super().__init__(" ".join(message.split()))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(gentrace.__version__, prog_name="gentrace")
def main() -> None:
    """See what a language model looks at while it writes."""


GENERATION_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("--model", default="story", show_default=True, help=MODEL_HELP),
    click.option("--max-new-tokens", default=60, show_default=True, type=click.IntRange(min=1)),
    click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="With --sample."),
    click.option("--top-k", type=click.IntRange(min=1), help="With --sample: choose among the k likeliest."),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="With --sample: nucleus mass."),
    click.option("--seed", default=0, show_default=True, help="Seed for sampling."),
    click.option(
        "--alternatives",
        type=click.IntRange(min=1),
        default=10,
        show_default=True,
        help="Likeliest tokens to keep at each position, whatever is chosen.",
    ),
    click.option("--device", help="Such as cpu or cuda."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Of the model's weights."),
]


def generation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that run and demo share."""
    for option in reversed(GENERATION_OPTIONS):
        command = option(command)
    return command


@main.command()
@click.option("--prompt", required=True, help="The text to continue or translate; '-' reads it from stdin.")
@click.option("--layers", help="Layers to record, such as 0,2-5. Default: all.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the trace to this .safetensors file.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a replay page to this file.")
@click.option("--show", help="Layers to show in the page, such as 0,2-5. Default: the last one recorded.")
@click.option("--sample/--greedy", default=False, help="Sample tokens, or take the likeliest (default).")
@click.option(
    "--completion",
    type=click.Path(path_type=Path),
    help="Read this file as the prompt's continuation, in one forward, instead of generating.",
)
@click.option(
    "--live", is_flag=False, flag_value="", metavar="[LAYER[.HEAD]]", help="Draw each step. Default: the last layer."
)
@generation_options
def run(
    prompt: str,
    layers: str | None,
    out: Path | None,
    html: Path | None,
    show: str | None,
    completion: Path | None,
    live: str | None,
    **options: Any,
) -> None:
    """Generate from a prompt, or read a finished text, and keep what the model looked at."""
    if out is None and html is None and live is None:
        raise click.UsageError("nothing to write: give --out FILE.safetensors, --html PAGE.html, or both")
    if live is not None and completion is not None:
        raise click.UsageError("--live draws a generation, and a --completion is read in one forward")
    with one_line_errors():
        if out is not None and html is not None and out.resolve() == html.resolve():
            raise OneLine(f"--out and --html are the same file: {out}")
        if prompt == "-":
            prompt = sys.stdin.read()
        chosen, shown = parse_layers("--layers", layers), parse_layers("--show", show)
        for path in (out, html):
            check_writable(path)
        written = None if completion is None else completion.read_text(encoding="utf-8")
        drawn = None if live is None else parse_shown(live)
        trace = record_prompt(prompt, chosen, written, drawn, **options)
        deliver(trace, out, html, shown)


@main.command()
@click.option("--prompt", help="The beginning of the story, or a sentence to translate.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("gentrace-demo.html"), show_default=True)
@click.option("--open/--no-open", "open_page", default=True, help="Open the page in the browser (default).")
@click.option("--sample/--greedy", default=True, help="Sample tokens (default), or take the likeliest.")
@generation_options
def demo(prompt: str | None, out: Path, open_page: bool, **options: Any) -> None:
    """Let a bundled model write, and replay what it looked at."""
    with one_line_errors():
        prompt = OPENINGS.get(options["model"], STORY) if prompt is None else prompt
        check_writable(out)
        if options["sample"] and not any(options[name] for name in ("temperature", "top_k", "top_p")):
            options |= {"temperature": 0.8, "top_p": 0.9}
        trace = record_prompt(prompt, None, None, None, **options)
        deliver(trace, None, out, [layer.index for layer in trace.layers])
    if open_page:
        webbrowser.open(out.resolve().as_uri())


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write one page here in any case.")
@click.option("--layers", help="Layers to show, such as 0,5-7. Default: all.")
@click.option("--serve", is_flag=True, help="Serve them in any case, and write no page.")
@click.option("--open/--no-open", "open_page", default=True, help="Open the page in a browser.")
def view(paths: tuple[Path, ...], out: Path | None, layers: str | None, serve: bool, open_page: bool) -> None:
    """Explore saved traces in one offline page (gentrace.html).

    A folder, and traces too large for a page, are served on this machine until Ctrl-C.
    """
    from gentrace.explorer.view import view

    with one_line_errors():
        shown = parse_layers("--layers", layers)
        check_writable(out)
        view(paths, out=out, layers=shown, served=serve, say=click.echo, browse=webbrowser.open if open_page else None)


main.add_command(picture)
study.add_command(report)
main.add_command(study)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def info(path: Path) -> None:
    """Say what a trace file holds."""
    with one_line_errors():
        trace = gentrace.load(path)
        click.echo(describe(trace, path))


def record_prompt(
    prompt: str,
    layers: list[int] | None,
    completion: str | None,
    live: Shown | None,
    *,
    model: str,
    max_new_tokens: int,
    sample: bool,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    alternatives: int,
    device: str | None,
    dtype: str | None,
) -> "Trace":
    """Load a model, generate from the prompt or read its completion, and return the trace.

    Raises:
        OneLine: If the options do not fit together.
        ModelUnfitError: If the prompt does not fit the model.
    """
    warpers = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    given: dict[str, Any] = {name: value for name, value in warpers.items() if value is not None}
    if given and not sample:
        raise OneLine(f"{', '.join('--' + name.replace('_', '-') for name in given)} needs --sample")
    if not prompt.strip():
        raise OneLine("the prompt is empty: give some text to continue")
    silence()
    from gentrace.demo import load
    from gentrace.demo.fitting import check_fits

    network, tokenizer = load(model, device=device, dtype=dtype)
    added = max_new_tokens if completion is None else len(tokenizer(completion, add_special_tokens=False)["input_ids"])
    check_fits(network, tokenizer, prompt, added, layers)
    if completion is not None:
        from gentrace.capture.oneliners import read

        return read(network, tokenizer, prompt, completion, layers=layers, top_k=alternatives)
    import torch
    from tqdm import tqdm

    torch.manual_seed(seed)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    given |= {"max_new_tokens": max_new_tokens, "do_sample": sample, "pad_token_id": pad}
    kept: dict[str, Any] = {"layers": layers, "alternatives": alternatives}
    if live is not None:
        from gentrace.liveview.command import write

        trace = write(network, tokenizer, prompt, live, **kept, **given)
    else:
        with tqdm(total=max_new_tokens, unit=" tokens", desc="writing", disable=None, leave=False) as bar:
            progress = _Progress(bar.update)
            trace = gentrace.generate(network, tokenizer, prompt, streamer=progress, **kept, **given)
    if isinstance(trace, list):
        raise OneLine("the model's own generation settings return several sequences; that is not supported here")
    return trace


class _Progress:
    """A streamer that only counts; generate hands it the prompt first, then each token."""

    def __init__(self, advance: Callable[[int], object]) -> None:
        self._advance = advance
        self._started = False

    def put(self, value: Any) -> None:
        if self._started:
            self._advance(1)
        self._started = True

    def end(self) -> None:
        self._started = False


def parse_layers(option: str, text: str | None) -> list[int] | None:
    """Read ``0,2-5`` as ``[0, 2, 3, 4, 5]``.

    Raises:
        OneLine: If it is not of that form.
    """
    if text is None:
        return None
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        stop = last if dash else first
        if not (first.isdecimal() and stop.isdecimal() and int(first) <= int(stop) < MOST_LAYERS):
            raise OneLine(f"{option} {text!r} is not a list of layers such as 0,2-5")
        layers.update(range(int(first), int(stop) + 1))
    return sorted(layers)


def check_writable(path: Path | None) -> None:
    """Try to write beside where the result will go, before any work is done.

    Raises:
        OSError: If that fails.
    """
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    Path(name).unlink()


def deliver(trace: "Trace", out: Path | None, html: Path | None, show: list[int] | None = None) -> None:
    """Write the trace, then its page; if either fails, say where the trace is.

    Raises:
        OneLine: If something could not be written; it names a file that holds the trace.
    """
    saved = None
    try:
        if out is not None:
            trace.save(out)
            saved = out
            click.echo(f"trace  {out}")
        if html is not None:
            write_page(trace, html, show)
            click.echo(f"page   {html.resolve()}")
    except (OSError, GentraceError) as error:
        where = saved or rescue(trace)
        raise OneLine(f"{_say(error)} — the trace itself is safe in {where}") from error


def write_page(trace: "Trace", path: Path, show: list[int] | None) -> None:
    """Write the replay page of these layers, whole or not at all."""
    from gentrace.trace.file import write_atomically
    from gentrace.views import replay_page

    page = replay_page(trace, show)
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def rescue(trace: "Trace") -> Path:
    """Save a trace somewhere else.

    Raises:
        OneLine: If no place can be written to.
    """
    for folder in (Path(tempfile.gettempdir()), Path.home(), Path.cwd()):
        handle, name = None, None
        with contextlib.suppress(OSError):
            handle, name = tempfile.mkstemp(dir=folder, prefix="gentrace-", suffix=".safetensors")
            os.close(handle)
            trace.save(name)
            return Path(name)
        if name is not None:
            Path(name).unlink(missing_ok=True)
    raise OneLine("the trace could not be written anywhere: free some disk space and run again")


def describe(trace: "Trace", path: Path) -> str:
    """A trace in a few lines."""
    tokens, meta = trace.tokens, trace.meta
    generated = len(tokens) - tokens.prompt_length
    size = path.stat().st_size
    lines = [
        f"{path}: {size / 1e6:.1f} MB" + ("" if meta.complete else ", cut short by an exception"),
        f"model     {meta.model} ({meta.dtype or 'tokens only'}, {meta.kernel or 'no attention kept'})",
        f"tokens    {tokens.prompt_length} given, {generated} generated"
        + (f", {trace.encoder_length} in the encoder" if trace.encoder_length else ""),
        f"layers    {_layers(trace)}",
        f"fidelity  largest relative error {trace.fidelity.error:.1e}, tolerance {trace.fidelity.tolerance:.0e}",
        f"recorded  {meta.time} by gentrace {meta.versions.get('gentrace')}, torch {meta.versions.get('torch')}, "
        f"transformers {meta.versions.get('transformers')}",
        f"text      {_shorten(tokens.text)!r}",
    ]
    return "\n".join(lines)


def _layers(trace: "Trace") -> str:
    """How many layers of each kind, and their heads."""
    kinds = list(dict.fromkeys(info.kind for info in trace.layers))
    parts: list[str] = []
    for kind in kinds:
        heads = sorted({info.heads for info in trace.layers if info.kind == kind})
        count = sum(info.kind == kind for info in trace.layers)
        named = "" if kinds == ["self"] else f" of {kind} attention"
        parts.append(f"{count} recorded{named}, {' or '.join(map(str, heads))} heads each")
    if trace.other_layers:
        parts.append(f"{len(trace.other_layers)} without attention")
    return "; ".join(parts) or "0 recorded"


@contextlib.contextmanager
def one_line_errors() -> Generator[None]:
    """Turn what a user can cause into one line."""
    try:
        yield
    except click.ClickException:
        raise
    except (GentraceError, OSError, ValueError, RuntimeError) as error:
        raise OneLine(_say(error)) from error


def _say(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def silence() -> None:
    """Keep libraries' logs and progress bars out of the way."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _shorten(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
