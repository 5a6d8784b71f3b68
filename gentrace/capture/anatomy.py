"""A model's parts, as far as recording needs to know them: what is its encoder, what is its text, what is beside it."""

import ast
import functools
import inspect
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from gentrace.capture.taps.lens import attention_names, model_of
from gentrace.errors import UnsupportedModel
from gentrace.trace.info import OtherLayer


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a module's forward, in order."""
    forward: Any = module.forward
    function = getattr(forward, "__func__", None)
    return _parameters(forward) if function is None else _parameters(function)[1:]


@functools.lru_cache(maxsize=64)
def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


class Anatomy:
    """One model and its parts."""

    def __init__(self, given: Any) -> None:
        """Look at the model.

        Args:
            given: What the user wants recorded: a Hugging Face model, a module around one, a bridge of TransformerLens,
                or any other module.

        Raises:
            UnsupportedModel: If it is no module at all.
        """
        if not isinstance(given, nn.Module):
            raise UnsupportedModel(
                f"recording {type(given).__name__}", "it is no torch module", "give the model that you generate with"
            )
        inside = model_of(given)
        self.bridge: nn.Module | None = None if inside is None else given
        """The bridge of TransformerLens around the model, if one was given."""
        given = given if inside is None else inside
        found = next((module for module in given.modules() if isinstance(module, PreTrainedModel)), None)
        self.model: nn.Module = found if found is not None else given
        # Walking through a large model takes milliseconds, so it is done once.
        self._paths = {module: name for name, module in self.model.named_modules()}
        self.modules = list(self._paths)
        """All modules, the model first."""
        self._classes = {type(module) for module in self.modules}
        self._models: list[nn.Module] | None = None
        self._around_encoder: dict[int, bool] = {}
        self.tells_length = found is not None
        """Whether its caches say how many positions they hold."""
        self.encoder: nn.Module | None = None
        if found is not None and found.config.is_encoder_decoder:
            encoder = found.get_encoder()
            self.encoder = encoder if isinstance(encoder, nn.Module) and encoder is not found else None

    def names(self) -> dict[int, str]:
        """What the modules are called, by their ids: their paths, or what a bridge calls its attention."""
        names = {id(module): name for module, name in self._paths.items()}
        return names if self.bridge is None else names | attention_names(self.model)

    def bridged(self) -> frozenset[int]:
        """Ids of the attention modules that belong to a bridge."""
        return frozenset() if self.bridge is None else frozenset(attention_names(self.model))

    def refuse_without_attention(self) -> None:
        """Refuse a model of transformers in whose files no attention is computed.

        Raises:
            UnsupportedModel: If none of the files that its modules come from mentions a softmax or a kernel.
        """
        names = {kind.__module__ for kind in self._classes}
        own = {name for name in names if name.startswith("transformers.models.")}
        others = {name for name in names - own if not name.startswith(("torch.", "transformers."))}
        if own and not others and not any(map(_mentions_attention, own)):
            raise UnsupportedModel(
                f"recording {type(self.model).__name__}",
                "none of its modules computes softmax attention",
                "record a model that has attention",
            )

    def computes_outside_registry(self) -> bool:
        """Whether anything but transformers' registry may compute attention, as far as its files tell."""
        names = {base.__module__ for kind in self._classes for base in kind.__mro__}
        own = {name for name in names if name.startswith("transformers.models.")}
        others = {name for name in names - own if not name.startswith(("torch.", "transformers.", "builtins", "abc"))}
        return not own or bool(others) or any(map(_attends_by_itself, own))

    def models(self) -> list[nn.Module]:
        """The models inside, the whole one first: those whose forwards have to be told apart."""
        if self._models is not None:
            return self._models
        inside = [module for module in self.modules if isinstance(module, PreTrainedModel)]
        parts = [self.model, *inside, *([] if self.encoder is None else [self.encoder, *self._decoders()])]
        self._models = list({id(module): module for module in parts}.values())
        return self._models

    def wraps_encoder(self, module: nn.Module) -> bool:
        """Whether a model contains the encoder, so that its decoder is still to come."""
        if self.encoder is None:
            return False
        if id(module) not in self._around_encoder:
            self._around_encoder[id(module)] = any(part is self.encoder for part in module.modules())
        return self._around_encoder[id(module)]

    def is_foreign(self, module: nn.Module) -> bool:
        """Whether a model inside works on something else than the text, such as images."""
        config = getattr(module, "config", None)
        whole = getattr(self.model, "config", None)
        if config is None or whole is None:
            return False
        return type(config) not in (type(whole), type(whole.get_text_config(decoder=True)))

    def text_of(self, inputs: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        """Token ids, if there are any, and the tensor whose first axes are batch and position."""
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if ids is not None:
            return (ids if isinstance(ids, Tensor) else None), ids
        if embeds is not None:
            return None, embeds
        if self.tells_length:
            named = (inputs.get(name) for name in ("decoder_input_ids", "input_values"))
            ids = next((x for x in named if isinstance(x, Tensor) and not x.is_floating_point()), None)
            return ids, ids
        for value in inputs.values():
            if isinstance(value, Tensor) and value.dim() in (1, 2, 3):
                return (value, value) if not value.is_floating_point() and value.dim() < 3 else (None, value)
        return None, None

    def positions_first(self) -> bool:
        """Whether a home-made model may take positions before sequences."""
        return not self.tells_length and any(
            isinstance(module, nn.MultiheadAttention) and not module.batch_first for module in self.modules
        )

    def suspects(self) -> list[str]:
        """Names of modules that look like attention."""
        return [name for module, name in self._paths.items() if "attention" in type(module).__name__.lower()]

    def alike(self, module: nn.Module) -> int:
        """How many modules are of the same class as this one."""
        return sum(type(other) is type(module) for other in self.modules)

    def generators(self) -> list[GenerationMixin]:
        """The modules that can generate."""
        return [module for module in self.modules if isinstance(module, GenerationMixin)]

    def other_layers(self, sites: list[str]) -> tuple[OtherLayer, ...]:
        """The layers that lie between those with attention and have none.

        Args:
            sites: Paths of the modules in which self-attention was seen.
        """
        prefix = _stack_of(sites)
        whole = self.model if self.bridge is None else self.bridge
        stack = None if prefix is None else whole.get_submodule(prefix)
        if prefix is None or stack is None:
            return ()
        own = {int(name[len(prefix) + 1 :].split(".")[0]) for name in sites if name.startswith(f"{prefix}.")}
        config = getattr(self.model, "config", None)
        kinds = [] if config is None else _kinds(config.get_text_config(decoder=True))
        layers = list(stack.children())
        return tuple(
            OtherLayer(
                index,
                f"{prefix}.{index}",
                kinds[index] if len(kinds) == len(layers) else type(layer).__name__,
            )
            for index, layer in enumerate(layers)
            if index not in own
        )

    def _decoders(self) -> list[nn.Module]:
        decoder = self.model.get_decoder() if isinstance(self.model, PreTrainedModel) else None
        return [decoder] if isinstance(decoder, nn.Module) else []


_ATTENDS = re.compile(r"softmax\(|\.Softmax|scaled_dot_product_attention|ALL_ATTENTION_FUNCTIONS|MultiheadAttention")


def _source(module: str) -> str:
    file = sys.modules[module].__file__
    return "" if file is None else Path(file).read_text(encoding="utf-8")


@functools.cache
def _mentions_attention(module: str) -> bool:
    """Whether a modeling file names a softmax or a kernel at all."""
    return _ATTENDS.search(_source(module)) is not None


@functools.cache
def _attends_by_itself(module: str) -> bool:
    """Whether a modeling file computes a softmax or calls a kernel outside of what it gives to the registry."""
    tree = ast.parse(_source(module))
    for part in tree.body:
        if isinstance(part, ast.FunctionDef) and part.name == "eager_attention_forward":
            continue
        for node in ast.walk(part):
            named = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if named in ("softmax", "Softmax", "scaled_dot_product_attention", "MultiheadAttention"):
                return True
    return False


def _stack_of(names: list[str]) -> str | None:
    """Path of the list of layers that most of these modules lie in."""
    prefixes = [match.group(1) for name in names if (match := re.match(r"(.*?)\.\d+(?:\.|$)", name))]
    return Counter(prefixes).most_common(1)[0][0] if prefixes else None


def _kinds(config: Any) -> list[str]:
    """The configuration's words for its layers, if it has any."""
    for name in ("layer_types", "layers_block_type", "block_types"):
        kinds: Any = getattr(config, name, None)
        if isinstance(kinds, list | tuple):
            return [str(kind) for kind in kinds]
    return []
