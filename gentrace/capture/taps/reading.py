"""Understanding a chain of operations as attention: which of it is scale, softcap, bias, mask and sink.

The first forward decides for each attention of the model whether its queries and keys are recorded or its finished
scores. There the understanding is also tried out: scores computed from it must be those that the module computed.
Values are looked at on the host only. On an accelerator that would wait for the device; there summands are taken for
masks, which are read when the run has ended, and the fidelity check has to notice what is not as it seems.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from gentrace.capture.shapes import visible_scores
from gentrace.capture.taps.chains import Chain, Operation
from gentrace.capture.taps.parts import Parts, Unreadable, agrees, arrange, heads_of, repeats
from gentrace.capture.taps.products import Mixture, Product

LOW = -1e3
"""What is written into scores to hide a key lies below."""

Use = Literal["bias", "mask", "nothing"]


@dataclass(slots=True, eq=False)
class Reading:
    """What is known of one attention of the model since its first forward."""

    vectors: bool | None = None
    """Whether its queries and keys are recorded; None until that is decided."""
    uses: dict[tuple[Any, ...], list[Use]] = field(default_factory=dict)
    """Per sequence of operations, what each summand turned out to be."""
    rule: tuple[float, float | None] | None = None
    """Scale and softcap."""
    group: int = 1
    """Query heads that share keys, where the module repeats those beforehand."""


class Shared:
    """Tensors that are made of others once for all layers which are given the same."""

    def __init__(self) -> None:
        """Begin with none."""
        self._made: dict[tuple[Any, ...], tuple[tuple[Tensor, ...], Tensor]] = {}

    def make(self, what: tuple[Any, ...], sources: tuple[Tensor, ...], make: Callable[[], Tensor]) -> Tensor:
        """What was made of the sources under this name, or what ``make`` returns."""
        # The sources are kept, so that their ids stand for them.
        key = (*what, *(id(source) for source in sources))
        if key not in self._made:
            self._made[key] = sources, make()
        return self._made[key][1]

    def forget(self) -> None:
        """A forward has ended."""
        self._made = {}


class _Reader:
    """Goes through one chain."""

    def __init__(self, product: Product, operations: list[Operation], reading: Reading, shared: Shared) -> None:
        self.heads = heads_of([product.shape, *(operation.shape for operation in operations)])
        self._form = tuple((step.what, len(step.shape), _is_single(step.operand)) for step in operations)
        self.fresh = self._form not in reading.uses
        self._uses: list[Use] = reading.uses.get(self._form, [])
        self._reading = reading
        self._shared = shared
        self._added = 0
        self.scale = 1.0
        self.softcap: float | None = None
        self._bounded = False
        self.summands: list[tuple[Tensor, float, Use]] = []
        self.open: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.sinks: Tensor | None = None
        self.shifted = False
        self._rows, self._keys = product.shape[-2:]
        for operation in operations:
            self._read(operation)
        if self._bounded and self.softcap is None:
            raise Unreadable("tanh without a factor behind it")

    def learn(self) -> None:
        """Remember what the values said."""
        self._reading.uses[self._form] = self._uses

    def bias(self) -> Tensor | None:
        parts = [(tensor, factor) for tensor, factor, use in self.summands if use == "bias"]
        total = self._sum("bias", parts)
        if total is None or total.shape[2] == self._rows:
            return total
        shape = *total.shape[:2], self._rows, total.shape[3]
        return self._shared.make(("rows", self._rows), (total,), lambda: total.expand(shape))

    def mask(self) -> Tensor | None:
        added = [(tensor, factor) for tensor, factor, use in self.summands if use == "mask"]
        if not self.open:
            return self._sum("mask", added)
        visible = self.open[0]
        if len(self.open) > 1:
            visible = self._shared.make(("and",), tuple(self.open), self._all_open)
        total = self._sum("mask", added)
        if total is None:
            return visible
        both = visible, total
        return self._shared.make(("masked",), both, lambda: torch.where(visible, total, -torch.inf))

    def _all_open(self) -> Tensor:
        visible = self.open[0]
        for other in self.open[1:]:
            visible = visible & other
        return visible

    def _sum(self, what: str, parts: list[tuple[Tensor, float]]) -> Tensor | None:
        if not parts:
            return None
        if len(parts) == 1 and parts[0][1] == 1:
            return parts[0][0]

        def total() -> Tensor:
            scaled = [tensor if factor == 1 else tensor * factor for tensor, factor in parts]
            # What hides in one dtype does not in another.
            first, *others = (
                torch.where(visible_scores(one), one, -torch.inf) if what == "mask" else one for one in scaled
            )
            for other in others:
                first = first + other
            return first

        factors = tuple(factor for _, factor in parts)
        return self._shared.make((what, factors), tuple(tensor for tensor, _ in parts), total)

    def _read(self, operation: Operation) -> None:
        what, operand, axes = operation.what, operation.operand, len(operation.shape)
        if what == "same":
            return
        if what == "shift":
            self.shifted = True
        elif self.sinks is not None:
            raise Unreadable(f"{what} after a sink")
        elif what in ("scale", "divide"):
            self._multiply(operand, what == "divide", axes)
        elif what == "tanh":
            if self.summands or self.open or self._bounded:
                raise Unreadable("tanh of more than products")
            self._bounded = True
        elif self._bounded and self.softcap is None:
            raise Unreadable(f"{what} between tanh and its factor")
        elif what == "add":
            self._add(operand, _number(operation.factor), axes)
        elif what in ("show", "hide"):
            if what == "hide" and operand.dim() > 1 and operand.shape[-1] == 1 and not _is_low(operation.factor):
                # Rows that see nothing, kept from being NaN.
                return
            if not _is_low(operation.factor):
                raise Unreadable("scores replaced by something that does not hide")
            self.open.append(self._condition(operand, what == "hide", axes))
        elif what == "floor":
            if not _is_low(operand):
                raise Unreadable("a lower bound that scores may reach")
        elif what == "sink":
            self._sink(operand, axes)

    def _multiply(self, operand: Any, divide: bool, axes: int) -> None:
        if isinstance(operand, Tensor) and (operand.numel() > 1 or not _is_seen(operand)):
            if (
                (operand.numel() == 1 or operand.shape[-1] == 1 < self._keys)
                and not self._bounded
                and not self.summands
            ):
                rows = arrange(operand, axes, self.heads)
                self.rows.append(1 / rows if divide else rows)
            elif not divide and not self._bounded and _is_zero_or_one(operand):
                self.open.append(self._condition(operand, False, axes))
            else:
                raise Unreadable("scores multiplied one by one")
            return
        number = 1 / _number(operand) if divide else _number(operand)
        if self._bounded and self.softcap is None:
            self.softcap = number
            self.scale *= number
        elif self._bounded:
            raise Unreadable("a factor on bounded scores")
        else:
            self.scale *= number
            self.summands = [(tensor, factor * number, use) for tensor, factor, use in self.summands]

    def _add(self, operand: Tensor, factor: float, axes: int) -> None:
        tensor = self._arranged(operand, axes)
        if self.fresh:
            self._uses.append(self._use(tensor * factor))
        use = self._uses[self._added]
        self._added += 1
        if use != "nothing":
            self.summands.append((tensor, factor, use))

    def _use(self, summand: Tensor) -> Use:
        summand = summand.detach()
        if not _is_seen(summand):
            return "mask"
        if not bool(visible_scores(summand).all()):
            return "mask"
        if not bool(summand.any()):
            # Which it is will show later; a mask is the same for all heads.
            return "bias" if summand.shape[1] > 1 else "mask"
        visible = self._all_open() if self.open else torch.ones((), dtype=torch.bool, device=summand.device)
        return "bias" if bool((visible & (summand != 0)).any()) else "nothing"

    def _sink(self, operand: Tensor, axes: int) -> None:
        column = arrange(operand, axes, self.heads)
        if self.heads is None and column.shape[1] > 1:
            raise Unreadable("a sink for heads that are not told apart")
        sinks = column[0, :, 0, 0]
        if self.fresh and _is_seen(column) and not bool((column == sinks[None, :, None, None]).all()):
            raise Unreadable("a sink that differs by position")
        self.sinks = sinks

    def _arranged(self, operand: Tensor, axes: int) -> Tensor:
        tensor = operand
        if operand.dim() != 4 or axes != 4:
            what = "arrange", axes, self.heads
            tensor = self._shared.make(what, (operand,), lambda: arrange(operand, axes, self.heads))
        if tensor.shape[-1] == self._keys:
            return tensor
        return self._shared.make(("keys", self._keys), (tensor,), lambda: tensor.expand(*tensor.shape[:-1], self._keys))

    def _condition(self, operand: Tensor, inverted: bool, axes: int) -> Tensor:
        tensor = self._arranged(operand, axes)
        if not inverted and tensor.dtype == torch.bool:
            return tensor
        return self._shared.make(("open", inverted), (tensor,), lambda: ~tensor.bool() if inverted else tensor.bool())


def understand(chain: Chain, scores: Tensor, reading: Reading, shared: Shared) -> Parts:
    """Take a chain apart.

    Args:
        chain: What the scores were made of.
        scores: What enters softmax.
        reading: What is known of this attention; learns from a chain of a new form.
        shared: Masks and biases that other layers were given, too.

    Raises:
        Unreadable: If it is not understood, or does not give these scores.
    """
    product = chain.product
    if product is None or not chain.readable or chain.is_maximum:
        raise Unreadable("an unknown operation")
    operations = [Operation("scale", product.alpha, product.shape)]
    if product.added is not None and product.beta != 0:
        operations.append(Operation("add", product.added, product.shape, product.beta))
    reader = _Reader(product, [*operations, *chain.operations], reading, shared)
    axes, heads = len(product.shape), reader.heads
    query = arrange(product.query, axes, heads)
    key = arrange(product.key, axes, heads, grouped=True)
    batch, count = heads or (1, product.shape[:-2].numel())
    query, key = query.expand(batch, count, -1, -1), key.expand(batch, -1, -1, -1)
    if query.shape[1] % key.shape[1]:
        raise Unreadable(f"{query.shape[1]} heads of queries for {key.shape[1]} of keys")
    scale = reader.scale
    for rows in reader.rows:
        query = query * rows
    if reading.rule is None:
        reading.rule = scale, reader.softcap
    elif scale != reading.rule[0]:
        # A scale that goes with the length belongs to the queries.
        query, scale = query * (scale / reading.rule[0]), reading.rule[0]
    parts = Parts(query, key, reader.mask(), reader.bias(), reader.sinks, scale, reader.softcap, heads)
    # A single row may hide nothing, so that what a mask does to it shows itself only in longer forwards.
    if (reader.fresh or scores.shape[-2] > 1) and _is_seen(scores) and not agrees(parts, scores, reader.shifted):
        raise Unreadable("scores that are not what their parts give")
    if reader.fresh:
        reader.learn()
    if reading.rule[1] != reader.softcap:
        raise Unreadable("a softcap that changes")
    return parts


def mixture_parts(parts: Parts, mixture: Mixture, reading: Reading) -> tuple[Parts, Tensor, Tensor]:
    """Bring values and output into the layout of queries and keys.

    Args:
        parts: The attention.
        mixture: The product of its weights with the values.
        reading: What is known of this attention; learns whether keys are repeated.

    Returns:
        The parts, the values ``[batch, kv_head, key, dim]`` and the output ``[batch, query, head, dim]``.

    Raises:
        Unreadable: If they do not fit together.
    """
    axes = len(mixture.shape)
    heads = parts.heads or heads_of([mixture.shape])
    if heads is not None and parts.heads is None:
        parts = parts.separated(heads)
    value = arrange(mixture.value, axes, heads, grouped=True)
    output = arrange(mixture.output, axes, heads)
    query, key = parts.query, parts.key
    value = value.expand(len(query), -1, -1, -1)
    if output.shape[:3] != query.shape[:3] or value.shape[2] != key.shape[2]:
        raise Unreadable(f"an output {tuple(output.shape)} for queries {tuple(query.shape)}")
    if value.shape[1] != key.shape[1]:
        most = max(value.shape[1], key.shape[1])
        key, value = (tensor.repeat_interleave(most // tensor.shape[1], 1) for tensor in (key, value))
    if reading.vectors is None and heads is not None and _is_seen(key):
        reading.group = repeats(key, value)
    if reading.group > 1:
        key, value = key[:, :: reading.group], value[:, :: reading.group]
    return replace(parts, key=key), value, output.transpose(1, 2)


def _is_seen(tensor: Tensor) -> bool:
    """Whether its values can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"


def _number(operand: Any) -> float:
    """The value of a number or of a tensor that holds one."""
    if isinstance(operand, Tensor):
        if operand.numel() > 1 or not _is_seen(operand):
            raise Unreadable("a factor that cannot be looked at")
        return float(operand.detach())
    if not isinstance(operand, int | float):
        raise Unreadable(f"a factor of type {type(operand).__name__}")
    return float(operand)


def _is_low(operand: Any) -> bool:
    """Whether what is written into scores hides a key."""
    if isinstance(operand, Tensor):
        return not _is_seen(operand) or bool((operand.detach() <= LOW).all())
    return _number(operand) <= LOW


def _is_zero_or_one(operand: Tensor) -> bool:
    return _is_seen(operand) and bool(((operand == 0) | (operand == 1)).all())


def _is_single(operand: Any) -> bool:
    return not isinstance(operand, Tensor) or operand.numel() == 1
