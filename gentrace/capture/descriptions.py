"""What a model's configuration says of the traces that are made of it."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import torch
import transformers
from torch import nn

import gentrace
from gentrace.capture.decoding.generation import options_of
from gentrace.capture.run import Run
from gentrace.trace.info import Meta


def placeholders_of(model: nn.Module) -> dict[int, str]:
    """The token ids that a model's configuration reserves for images, videos and sounds, and for which of them."""
    config: Any = getattr(model, "config", None)
    found: dict[int, str] = {}
    for kind in ("image", "video", "audio"):
        for name in (f"{kind}_token_id", f"{kind}_token_index"):
            token: Any = getattr(config, name, None)
            if isinstance(token, int) and token >= 0:
                found[token] = kind
    return found


def describe(run: Run, model: nn.Module) -> Meta:
    """Where a run's traces come from."""
    config = getattr(model, "config", None)
    settings = config.to_dict() if config is not None else {}
    dtypes = {str(layer.dtype).removeprefix("torch.") for layer in run.layers.values()}
    return Meta(
        model=str(getattr(config, "_name_or_path", "") or type(model).__name__),
        config_hash=hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
        generation=options_of(run.config),
        kernel=run.kernel,
        dtype=", ".join(sorted(dtypes)),
        versions={
            "gentrace": gentrace.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=run.complete,
    )
