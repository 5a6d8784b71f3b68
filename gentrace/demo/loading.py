"""From a name to a model that is ready to generate.

Whatever goes wrong on the way becomes one `ModelNotFoundError`: transformers fails in a dozen ways, and someone who
mistyped a name should read one line.
"""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from gentrace.demo.errors import ModelNotFoundError
from gentrace.demo.fetch import minilm_folder, smollm2_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]


BUNDLED = ("story", "translator")
DEMO_MODELS = (*BUNDLED, "smollm2", "minilm")


def load_story_model() -> LoadedModel:
    """The bundled story model, in float32 and evaluation mode, with its tokenizer. Needs no network."""
    return load("story", dtype="float32")


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> LoadedModel:
    """Loads a model, in evaluation mode, and its tokenizer.

    Args:
        name_or_path: "story" or "translator" (English to German, an encoder-decoder; both bundled), "smollm2" or
            "minilm" (an encoder; both fetched once, then kept in the cache folder), a folder, or a Hugging Face name.
            A folder that is named like a demo model is written "./story".
        device: Where the model goes; None leaves it on the CPU.
        dtype: What the weights become; None keeps what the model's configuration says.

    Raises:
        ModelNotFoundError: The model could not be found, fetched or loaded.
    """
    if name_or_path in BUNDLED:
        with as_file(files("gentrace.demo") / str(name_or_path)) as folder:
            return _load_folder(str(name_or_path), folder, device, dtype)
    if name_or_path == "smollm2":
        return _load_folder("smollm2", smollm2_folder(), device, dtype)
    if name_or_path == "minilm":
        return _load_folder("minilm", minilm_folder(), device, dtype, encoder=True)
    name, folder = str(name_or_path), Path(name_or_path).expanduser()
    if (folder / "config.json").is_file():
        return _load_folder(name, folder, device, dtype)
    if folder.exists() or folder.is_absolute() or name.startswith((".", "~")):
        seen = "there is no config.json in this folder" if folder.is_dir() else "there is no such folder"
        change = "Give the folder that holds the model's config.json"
        raise ModelNotFoundError(f"Loading the model {name!r}", seen, change)
    return _load_name(name, device, dtype)


def _load_folder(
    name: str,
    folder: Path,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    *,
    encoder: bool = False,
) -> LoadedModel:
    """A model from files, whatever the network."""
    change = (
        "Give the folder of a Hugging Face causal language model or encoder-decoder, "
        "and a device and a dtype that exist here"
    )
    with _one_error(name, change):
        model, tokenizer = _from_pretrained(str(folder), device, dtype, encoder=encoder, local_files_only=True)
    # Traces and pages name the model, and should not carry a path of this machine.
    model.config._name_or_path = name if name in DEMO_MODELS else folder.name
    return model, tokenizer


def _load_name(name: str, device: str | torch.device | None, dtype: str | torch.dtype | None) -> LoadedModel:
    """A model from the hub or, where that cannot be reached, from the hub's own cache on this machine."""
    change = (
        'Check the name, or give a folder, "story" or "translator" (bundled) '
        'or "smollm2" (fetched once from the package index)'
    )
    reachable = _hub_reachable()
    if not reachable:
        change = f"The model hub cannot be reached from here. {change}"
    with _one_error(name, change):
        return _from_pretrained(name, device, dtype, local_files_only=not reachable)


def _hub_reachable() -> bool:
    """Whether the hub's name resolves; asked first because the hub's client retries for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def _from_pretrained(
    source: str,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    *,
    encoder: bool = False,
    local_files_only: bool,
) -> LoadedModel:
    """What transformers does with a name or a folder, without its progress bars."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    with _no_progress_bars():
        config = AutoConfig.from_pretrained(source, local_files_only=local_files_only)
        writes: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        kind: Any = AutoModel if encoder else writes
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local_files_only)
        model = kind.from_pretrained(source, dtype=dtype or "auto", local_files_only=local_files_only)
        if device is not None:
            model = model.to(device)
    return model.eval(), tokenizer


@contextmanager
def _no_progress_bars() -> Generator[None]:
    """Switches transformers' bars off, and on again if they were on."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _one_error(name: str, change: str) -> Generator[None]:
    """Turns whatever was raised into a `ModelNotFoundError`."""
    try:
        yield
    except Exception as error:
        seen = shorten(f"{type(error).__name__}: {error}", 300)
        raise ModelNotFoundError(f"Loading the model {name!r}", seen, change) from error
