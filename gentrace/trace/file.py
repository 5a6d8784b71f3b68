"""One trace, one ``.safetensors`` file.

The header carries a format version and everything that is not a tensor, as JSON; nothing in it is ever executed. The
file is written under a temporary name, flushed and renamed, so a crash never leaves half a trace under the final name.
Each tensor's sums are in the header, so a changed byte is noticed when it is read, and opening stays lazy.
"""

import errno
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gentrace.errors import TraceFormatError
from gentrace.trace.decoding import Beams, BeamStep, Draft
from gentrace.trace.info import Fidelity, LayerFidelity, LayerInfo, Meta, OtherLayer
from gentrace.trace.store import FileStore, checksums
from gentrace.trace.tokens import Tokens
from gentrace.trace.trace import Trace

FORMAT = "gentrace"
VERSION = 1
TOKEN_TENSORS = (
    "ids",
    "logprobs",
    "sampled_logprobs",
    "entropy",
    "rank",
    "top_ids",
    "top_logprobs",
    "top_sampled_logprobs",
)


def save_trace(trace: Trace, path: str | PathLike[str]) -> None:
    """Write a trace; see `Trace.save`."""
    target = Path(path)
    tokens = trace.tokens
    tensors = {f"tokens.{name}": getattr(tokens, name) for name in TOKEN_TENSORS}
    if trace.encoder_tokens is not None:
        tensors["encoder.ids"] = trace.encoder_tokens.ids
    written = tuple(tensors)
    tensors |= {name: trace.store.tensor(name) for name in trace.store.names() if name not in written}
    # A view of a larger recording buffer must be copied: safetensors writes whole storages.
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    body = {
        "length": trace.length,
        "layers": [asdict(info) for info in trace.layers],
        "masks": [[index, kind, mask] for (index, kind), mask in trace.masks.items()],
        "fidelity": {
            "tolerance": trace.fidelity.tolerance,
            "layers": _checked(trace.fidelity.layers),
            "cross": _checked(trace.fidelity.cross),
            "encoder": _checked(trace.fidelity.encoder),
        },
        "meta": asdict(trace.meta),
        "tokens": {
            "texts": list(tokens.texts),
            "prompt_length": tokens.prompt_length,
            "top_texts": [list(texts) for texts in tokens.top_texts],
            "kinds": list(tokens.kinds),
        },
        "encoder": _encoder_body(trace),
        "other_layers": [asdict(other) for other in trace.other_layers],
        "beams": None if trace.beams is None else asdict(trace.beams),
        "drafts": [asdict(draft) for draft in trace.drafts],
        "sums": {name: checksums(tensor) for name, tensor in tensors.items()},
    }
    text = json.dumps(body, sort_keys=True, default=str)
    # One entry, since safetensors writes several in a random order and equal traces should be equal files.
    header = {FORMAT: f"{VERSION} {_digest(text)} {text}"}
    write_atomically(target, lambda temporary: save_file(tensors, temporary, metadata=header))


def _checked(layers: Mapping[int, LayerFidelity]) -> list[list[Any]]:
    return [[index, layer.error, list(layer.rows)] for index, layer in layers.items()]


def _encoder_body(trace: Trace) -> dict[str, Any] | None:
    tokens = trace.encoder_tokens
    return (
        None
        if tokens is None
        else {"length": trace.encoder_length, "texts": list(tokens.texts), "kinds": list(tokens.kinds)}
    )


def load(path: str | PathLike[str]) -> Trace:
    """Open a saved trace. Tensors are read from the file when they are asked for.

    Args:
        path: A file written by `Trace.save`.

    Raises:
        FileNotFoundError: If there is no such file.
        TraceFormatError: If the file is not a whole trace of a version that this gentrace reads.
    """
    source = Path(path)
    body = _read_header(source)
    try:
        store = FileStore(source, body["sums"])
        trace = _build(body, store)
        missing = _expected_names(trace) ^ set(store.names())
        wrong_shapes = [] if missing else _wrong_shapes(trace) + _unsummed(body["sums"], store)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, SafetensorError) as error:
        raise _damaged(source, f"its header does not describe a trace: {error!r}") from error
    if missing:
        raise _damaged(source, f"tensors missing or foreign: {', '.join(sorted(missing)[:3])}")
    if wrong_shapes:
        raise _damaged(source, f"tensors of the wrong shape, or without sums: {', '.join(wrong_shapes[:3])}")
    return trace


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``target``, flush it to disk and rename it.

    Raises:
        OSError: If it cannot be written; no file is left behind.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _flush(temporary)
        _give_default_mode(temporary)
        temporary.replace(target)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"cannot write: {error}", str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)
    _flush(target.parent)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_default_mode(path: Path) -> None:
    """Undo mkstemp's owner-only mode."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(source: Path, seen: str) -> TraceFormatError:
    return TraceFormatError(f"loading {source}", seen, "the file is damaged or not a trace; record it again")


def _read_header(source: Path) -> dict[str, Any]:
    size = source.stat().st_size
    with source.open("rb") as file:
        prefix = file.read(8)
    if len(prefix) < 8 or struct.unpack("<Q", prefix)[0] > size - 8:
        raise _damaged(source, f"{size} bytes are not a safetensors file, or not all of it")
    try:
        with safe_open(source, framework="pt") as file:
            header = file.metadata() or {}
    except SafetensorError as error:
        raise _damaged(source, str(error)) from error
    if FORMAT not in header:
        raise TraceFormatError(f"loading {source}", "a safetensors file, but not a trace", "give a file of Trace.save")
    version, _, rest = header[FORMAT].partition(" ")
    if version != str(VERSION):
        raise TraceFormatError(
            f"loading {source}", f"format version {version!r}; this gentrace reads version {VERSION}", "update gentrace"
        )
    digest, _, text = rest.partition(" ")
    if _digest(text) != digest:
        raise _damaged(source, "its header was changed after it was written")
    try:
        return json.loads(text)
    except ValueError as error:
        raise _damaged(source, f"its header is not JSON: {error}") from error


def _build(body: dict[str, Any], store: FileStore) -> Trace:
    layers = tuple(
        LayerInfo(**info | {"sinks": None if info["sinks"] is None else tuple(info["sinks"])})
        for info in body["layers"]
    )
    checked = [
        {index: LayerFidelity(error, tuple(rows)) for index, error, rows in body["fidelity"][kind]}
        for kind in ("layers", "cross", "encoder")
    ]
    fidelity = Fidelity(checked[0], body["fidelity"]["tolerance"], checked[1], checked[2])
    encoder = body["encoder"]
    meta = Meta(**body["meta"])
    masks = {(index, kind): mask for index, kind, mask in body["masks"]}
    return Trace(
        layers,
        body["length"],
        fidelity,
        meta,
        masks,
        store,
        _StoredTokens(store, body["tokens"]),
        encoder_length=0 if encoder is None else encoder["length"],
        read_encoder_tokens=None
        if encoder is None
        else _StoredInput(store, tuple(encoder["texts"]), tuple(encoder["kinds"])),
        other_layers=tuple(OtherLayer(**other) for other in body["other_layers"]),
        beams=None if body["beams"] is None else _beams(body["beams"]),
        drafts=tuple(Draft(**draft) for draft in body["drafts"]),
    )


def _beams(body: dict[str, Any]) -> Beams:
    def tupled(step: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in step.items()}

    return Beams(body["width"], tuple(BeamStep(**tupled(step)) for step in body["steps"]))


@dataclass(frozen=True, slots=True)
class _StoredTokens:
    """Reads a file's tokens."""

    store: FileStore
    words: dict[str, Any]

    def __call__(self) -> Tokens:
        return Tokens(
            texts=tuple(self.words["texts"]),
            prompt_length=self.words["prompt_length"],
            top_texts=tuple(tuple(texts) for texts in self.words["top_texts"]),
            kinds=tuple(self.words["kinds"]),
            **{name: self.store.tensor(f"tokens.{name}") for name in TOKEN_TENSORS},
        )


@dataclass(frozen=True, slots=True)
class _StoredInput:
    """Reads a file's encoder tokens."""

    store: FileStore
    texts: tuple[str, ...]
    kinds: tuple[str, ...]

    def __call__(self) -> Tokens:
        return Tokens.unpredicted(self.store.tensor("encoder.ids"), self.texts, self.kinds)


def _expected_names(trace: Trace) -> set[str]:
    names = {f"tokens.{name}" for name in TOKEN_TENSORS}
    names |= {"encoder.ids"} if trace.read_encoder_tokens is not None else set()
    names |= {"segments"} & set(trace.store.names())
    names |= {f"masks.{mask}.{part}" for mask in trace.masks.values() for part in ("start", "stop", "rows", "bits")}
    for info in trace.layers:
        prefix = f"layers.{info.index}.{info.kind}"
        scores_only = f"{prefix}.scores" in set(trace.store.names())
        names |= {f"{prefix}.scores"} if scores_only else {f"{prefix}.queries", f"{prefix}.keys"}
        names |= {f"{prefix}.{extra}" for extra in ("values", "bias")} & set(trace.store.names())
    return names


def _wrong_shapes(trace: Trace) -> list[str]:
    """Tensors whose shapes contradict the header, so that no later read can go out of bounds."""
    expected: dict[str, tuple[int, ...]] = {}
    for info in trace.layers:
        prefix = f"layers.{info.index}.{info.kind}"
        queries, keys = trace.counts(info)
        if f"{prefix}.scores" in set(trace.store.names()):
            expected[f"{prefix}.scores"] = (info.heads, queries, keys)
        else:
            expected[f"{prefix}.queries"] = (info.heads, queries, info.head_dim)
            expected[f"{prefix}.keys"] = (info.kv_heads, keys, info.head_dim)
        mask = trace.masks[info.index, info.kind]
        expected |= {f"masks.{mask}.{part}": (queries,) for part in ("start", "stop")}
    return [name for name, shape in expected.items() if trace.store.shape(name) != shape]


def _unsummed(sums: dict[str, list[int]], store: FileStore) -> list[str]:
    """Tensors that the header has no sums for."""
    shapes = {name: store.shape(name) for name in store.names()}
    return [name for name, shape in shapes.items() if len(sums.get(name, ())) != (shape[0] if len(shape) > 2 else 1)]
