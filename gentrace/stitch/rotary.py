"""Rotary position embedding, and its undoing.

Queries and keys are recorded after rotation, which is how they meet. Rotation turns pairs of components by an angle
that grows with the position, so whoever knows the angles can undo it. A trace does not know them: it holds no parameter
of the model. They are read off the model here, and the model's own function is asked whether they were understood.
"""

import ast
import inspect
import sys
import textwrap
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from gentrace.errors import UnsupportedModel

Style = Literal["half", "interleaved"]
"""Whether a pair is components i and i + dim / 2, as in Llama, or 2 i and 2 i + 1, as in GPT-J."""

_GROWING = ("dynamic", "longrope")
_BY_HAND = "make the rule by hand with RotaryRule.from_base() or RotaryRule(frequencies)"


@dataclass(frozen=True, slots=True)
class RotaryRule:
    """How a model turns queries and keys by their position (Su et al., RoFormer, arXiv 2104.09864)."""

    frequencies: tuple[float, ...]
    """[pair] radians that a pair is turned by from one position to the next."""
    style: Style = "half"
    """Which components make a pair."""
    scaling: float = 1.0
    """Factor on turned components, as in YaRN; components that are not turned do not have it."""
    start: int = 0
    """First component that is turned; those before it and those behind the last pair are left alone."""

    @classmethod
    def from_base(cls, base: float, dim: int, style: Style = "half", scaling: float = 1.0) -> "RotaryRule":
        """The rule without any stretching of frequencies.

        Args:
            base: Ratio that frequencies fall by over all pairs; ``rope_theta`` in configurations.
            dim: Components that are turned, two a pair.
            style: Which components make a pair.
            scaling: Factor on turned components.
        """
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        return cls(tuple((1.0 / base**exponents).tolist()), style, scaling)

    @classmethod
    def of(cls, model: Any, layer: int = 0) -> "RotaryRule":
        """Read the rule off a transformers model, and check it against the model's own rotation.

        Args:
            model: The model; its decoder's rotation is read, and not that of an image tower.
            layer: The layer, since some models turn layers of different kinds by different angles.

        Raises:
            UnsupportedModel: If the model does not rotate, or in a way that this rule cannot say.
        """
        attempted = f"reading the rotation of layer {layer} of {type(model).__name__}"
        embedding = _embedding(model, attempted)
        kind = _layer_type(model, layer)
        prefix = f"{kind}_" if hasattr(embedding, f"{kind}_inv_freq") else ""
        if not hasattr(embedding, f"{prefix}inv_freq"):
            raise UnsupportedModel(attempted, f"layers of kind {kind!r} are not turned", "leave rotary= out")
        _check_fixed(embedding, kind if prefix else None, attempted)
        _check_always_turned(model, layer, attempted)
        frequencies: Tensor = getattr(embedding, f"{prefix}inv_freq").float().cpu()
        count = 2 * len(frequencies)
        scaling = float(getattr(embedding, f"{prefix}attention_scaling", 1.0))
        turned = _turned_by(embedding, count, attempted, **({"layer_type": kind} if prefix else {}))
        for style in ("half", "interleaved"):
            rule = cls(tuple(frequencies.tolist()), style, scaling)
            ours = rule.rotate(torch.eye(count), torch.ones(count, dtype=torch.long))
            if ours.shape == turned.shape and torch.allclose(ours, turned, atol=1e-6):
                return rule
        raise UnsupportedModel(attempted, "it turns components in another way than by halves or neighbours", _BY_HAND)

    @property
    def dim(self) -> int:
        """Components that are turned."""
        return 2 * len(self.frequencies)

    @property
    def pairs(self) -> Int[Tensor, "pair 2"]:
        """[pair, 2] the components of each pair."""
        count = len(self.frequencies)
        pair = torch.arange(count)
        first, second = (pair, pair + count) if self.style == "half" else (2 * pair, 2 * pair + 1)
        return torch.stack([first, second], -1) + self.start

    def rotate(
        self, vectors: Float[Tensor, "*batch position dim"], positions: Int[Tensor, " position"]
    ) -> Float32[Tensor, "*batch position dim"]:
        """Turn vectors as the model does.

        Args:
            vectors: ``[position, dim]``, with any leading axes.
            positions: ``[position]`` where each of them stands.

        Raises:
            ValueError: If vectors have fewer components than are turned.
        """
        return self._turn(vectors, positions, 1.0, self.scaling)

    def unrotate(
        self, vectors: Float[Tensor, "*batch position dim"], positions: Int[Tensor, " position"]
    ) -> Float32[Tensor, "*batch position dim"]:
        """Vectors as they were before the model turned them; the inverse of `rotate`.

        Args:
            vectors: ``[position, dim]``, with any leading axes.
            positions: ``[position]`` where each of them stands.

        Raises:
            ValueError: If vectors have fewer components than are turned.
        """
        return self._turn(vectors, positions, -1.0, 1.0 / self.scaling)

    def _turn(self, vectors: Tensor, positions: Tensor, sign: float, scaling: float) -> Tensor:
        if vectors.shape[-1] < self.start + self.dim:
            seen = f"components {self.start} … {self.start + self.dim - 1} of vectors with {vectors.shape[-1]}"
            raise ValueError(f"turning {seen}")
        # As transformers does it: in another precision, late positions would come out at another angle.
        angle = positions.float()[:, None] * torch.tensor(self.frequencies)
        cosine, sine = angle.cos() * scaling, angle.sin() * (scaling * sign)
        found = vectors.float().clone()
        one, other = self.pairs.unbind(-1)
        first, second = found[..., one], found[..., other]
        found[..., one] = first * cosine - second * sine
        found[..., other] = second * cosine + first * sine
        return found


def _embedding(model: Any, attempted: str) -> Any:
    """The decoder's module that knows the angles."""
    found = [module for name, module in model.named_modules() if _knows_angles(module) and "vis" not in name.lower()]
    if not found:
        change = f"leave rotary= out, or, if it rotates nevertheless, {_BY_HAND}"
        raise UnsupportedModel(attempted, "no module of it holds rotary frequencies (inv_freq)", change)
    first = dict(found[0].named_buffers())
    for module in found[1:]:
        others = dict(module.named_buffers())
        if first.keys() != others.keys() or any(not torch.equal(first[name], others[name]) for name in first):
            raise UnsupportedModel(attempted, "its modules hold different rotary frequencies", _BY_HAND)
    return found[0]


def _knows_angles(module: Any) -> bool:
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _text_config(model: Any) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _layer_type(model: Any, layer: int) -> str | None:
    kinds: Any = getattr(_text_config(model), "layer_types", None)
    return kinds[layer] if kinds and 0 <= layer < len(kinds) else None


def _check_fixed(embedding: Any, kind: str | None, attempted: str) -> None:
    """Refuse what is not one angle a position.

    Raises:
        UnsupportedModel: If angles depend on more than the position in the text.
    """
    types: Any = getattr(embedding, "rope_type", "default")
    rope_type = types.get(kind, "default") if isinstance(types, dict) else types
    if rope_type in _GROWING:
        raise UnsupportedModel(attempted, f"rope type {rope_type!r}: its angles change with the length", _BY_HAND)
    config: Any = getattr(embedding, "config", None)
    parameters: Any = getattr(config, "rope_parameters", None) or {}
    if any("mrope" in str(name) for name in parameters):
        raise UnsupportedModel(attempted, "it turns by several positions at once (M-RoPE)", _BY_HAND)
    if getattr(config, "qk_rope_head_dim", None):
        raise UnsupportedModel(attempted, "only a part at the end of each vector is turned", f"{_BY_HAND}, with start=")


def _check_always_turned(model: Any, layer: int, attempted: str) -> None:
    """Refuse a layer whose code turns queries and keys only under a condition that does not hold or cannot be told.

    Raises:
        UnsupportedModel: If the layer is not turned, or may not be.
    """
    for module in model.modules():
        if getattr(module, "layer_idx", None) != layer:
            continue
        for condition in _conditions(type(module)):
            name = condition.removeprefix("self.")
            holds: Any = getattr(module, name, None) if name.isidentifier() else None
            if holds is not None and not holds:
                raise UnsupportedModel(attempted, f"this layer is not turned ({condition} is {holds})", "leave it out")
            if holds is None:
                raise UnsupportedModel(attempted, f"its layers are turned only if {condition}", _BY_HAND)


def _conditions(kind: Any) -> list[str]:
    """The conditions under which a module's forward turns anything."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind.forward)))
    except (OSError, TypeError, AttributeError, SyntaxError):
        return []
    return [
        ast.unparse(branch.test)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If)
        and any(
            isinstance(call, ast.Call) and "apply_rotary" in ast.unparse(call.func)
            for line in (*branch.body, *branch.orelse)
            for call in ast.walk(line)
        )
    ]


def _turned_by(embedding: Any, count: int, attempted: str, **named: Any) -> Float32[Tensor, "dim dim"]:
    """What the model itself makes of each of ``count`` unit vectors at position 1."""
    apply: Any = getattr(sys.modules[type(embedding).__module__], "apply_rotary_pos_emb", None)
    if apply is None:
        raise UnsupportedModel(attempted, "no function apply_rotary_pos_emb stands beside its embedding", _BY_HAND)
    device: Any = next(embedding.buffers()).device
    units = torch.eye(count, device=device)[None, :, None]
    try:
        with torch.no_grad():
            cosine, sine = embedding(units, torch.ones(1, 1, device=device, dtype=torch.long), **named)
            turned, _ = apply(units, units, cosine, sine)
    except Exception as error:
        raise UnsupportedModel(attempted, f"asking the model to rotate failed ({error!r})", _BY_HAND) from error
    return turned[0, :, 0].float().cpu()
