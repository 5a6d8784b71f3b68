"""Small studies of the story model, run as a user runs them, and what their folders hold."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gentrace.studies import Spec, Summary, parse_spec, run_study
from gentrace.studies.folder import PARTS

WORDS = ("cat", "dog", "bird", "little girl called Lily", "boy", "big red ball", "tree")


def made_spec(**changes: Any) -> Spec:
    """Seven prompts of different lengths, greedy and sampled, in batches of three."""
    values: dict[str, Any] = {
        "models": "story",
        "prompts": {
            "rows": [{"word": word, "size": len(word)} for word in WORDS],
            "template": "Once there was a {word}.",
            "factors": ["size"],
        },
        "decoding": [{"max_new_tokens": 6}, {"do_sample": True, "max_new_tokens": 6}],
        "measures": ["attention_entropy", "token_surprise"],
        "batch_size": 3,
    }
    return parse_spec(values | changes)


def run(spec: Spec | None, out: Path, **options: Any) -> tuple[Summary, list[str]]:
    """Run without a bar; the summary and what was said."""
    said: list[str] = []
    return run_study(spec, out, progress=False, say=said.append, **options), said


def parts(folder: Path) -> dict[str, str]:
    """Every file of a table and every trace, hidden ones included, with a digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in PARTS
        for path in sorted((folder / kind).rglob("*"))
    }


def records(folder: Path) -> dict[str, float]:
    """The records of finished batches, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "commits").iterdir()}


def said_about(said: list[str], what: str) -> str:
    """The one line that mentions something."""
    (line,) = [line for line in said if what in line]
    return line


def fails_on(module: Path, word: str, count: int = 0) -> Callable[[], None]:
    """Write a module with a measure that raises on texts with a word; calling the result mends it."""
    code = "def {name}(trace):\n    if {test}:\n        raise ValueError('no {word} please')\n    return {value}\n"
    module.write_text(code.format(name="check", test=f"{word!r} in trace.tokens.text", word=word, value=count))
    return lambda: module.write_text(code.format(name="check", test="False", word=word, value=count))


DEADLY = '''
import os
import signal
import time
from pathlib import Path


def check(trace, folder, until):
    """Leave the worker's number in a folder. Wait, or at the text with a dog die, until a file is there."""
    (Path(folder) / f"worker-{os.getpid()}").touch()
    if until == "waiting":
        time.sleep(3600)
    if "dog" in trace.tokens.text and not Path(until).exists():
        Path(until).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(len(trace.tokens))
'''


def deadly_spec(folder: Path, until: str) -> Path:
    """A study whose measure kills its worker once, until a file is there; or it is ever "waiting"."""
    (folder / "own.py").write_text(DEADLY)
    rows = ", ".join(f'{{word = "{word}"}}' for word in WORDS)
    (folder / "s.toml").write_text(
        f'models = "story"\nbatch_size = 2\nthreads = 1\nkeep = {{traces = true}}\n'
        f'measures = [{{measure = "own:check", options = {{folder = "{folder}", until = "{until}"}}}}]\n'
        f'[prompts]\nrows = [{rows}]\ntemplate = "A {{word}}"\n'
        "[decoding]\ndo_sample = [false, true]\nmax_new_tokens = 4\n"
    )
    return folder / "s.toml"


def workers_seen(folder: Path) -> set[int]:
    """The processes that measured something of a `deadly_spec`."""
    return {int(path.name.partition("-")[2]) for path in folder.glob("worker-*")}
