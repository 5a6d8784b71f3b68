"""Recording one type and comparing the trace with what transformers says: is every layer there, every number right?"""

import io
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import gentrace
from gentrace.trace.info import Kind
from tests.zoo.build import NotBuildable, build
from tests.zoo.inputs import model_inputs
from tests.zoo.oracle import (
    Generated,
    Inputs,
    NoOracleError,
    Reference,
    full_reference,
    generate,
    is_encoder_decoder,
    plain_references,
    stitched_reference,
)
from tests.zoo.sizes import PAD

KERNELS = ("eager", "sdpa")
KINDS: tuple[Kind, ...] = ("self", "cross", "encoder")
LIMIT = 1e-5
"""Largest difference of attention that counts as none."""
LOGPROB_LIMIT = 1e-4
PADDED = 3

NO_SOFTMAX = {
    "falcon_mamba": "a state-space model",
    "fnet": "mixes tokens with a Fourier transform",
    "mamba": "a state-space model",
    "mamba2": "a state-space model",
    "rwkv": "a recurrence",
    "xlstm": "a recurrence",
    "yoso": "attends by hashing",
}
"""Types that have no softmax attention, which has to be refused."""

WITHOUT_SINKS = frozenset({"granite_swa", "granitemoe_swa"})
"""Types whose eager attention returns weights as they are before the sink takes its share."""
RAW_SCORES = frozenset({"squeezebert"})
"""Types that return scores as attention."""
NEWEST_ROW = frozenset({"gemma4"})
"""Types whose generate computes only the newest row of the prompt in layers that share keys, unless attention is asked
for."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a case is run."""

    length: int = 9
    new: int = 4
    seed: int = 0
    seconds: int = 60


@dataclass(slots=True)
class Verdict:
    """What came of one type with one kernel."""

    task: str
    name: str
    kernel: str
    outcome: str = "exact"
    """exact, wrong, refused, no attention, not built or failed."""
    reason: str = ""
    layers: int = 0
    error: float = float("nan")
    taps: set[str] = field(default_factory=set)
    witnesses: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)

    def line(self) -> str:
        """One line for people."""
        error = "" if self.error != self.error else f"{self.error:.1e}"
        said = "; ".join(part for part in (self.reason, *sorted(self.notes)) if part)
        witness = f" [{', '.join(sorted(self.witnesses))}]" if self.witnesses else ""
        taps = ", ".join(sorted(self.taps)) or "-"
        return (
            f"{self.task:8} {self.name:28} {self.kernel:6} {taps:24} {self.layers:3} {error:8} {self.outcome}{witness}"
            f"{': ' if said else ''}{said}"
        )


class Wrong(Exception):
    """The trace says something else than transformers."""


class TimeIsUp(BaseException):
    """A type took too long; passes through whoever catches errors."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Stop what takes longer."""

    def ring(number: int, frame: Any) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdicts(task: str, name: str, setting: Setting, kernels: tuple[str, ...] = KERNELS) -> list[Verdict]:
    """Every kernel that the type supports."""
    found = []
    for kernel in kernels:
        verdict = Verdict(task, name, kernel)
        try:
            with within(setting.seconds), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                if not judge(verdict, setting):
                    continue
        except TimeIsUp:
            verdict.outcome, verdict.reason = "failed", f"took longer than {setting.seconds} s"
        found.append(verdict)
    return found


def judge(verdict: Verdict, setting: Setting) -> bool:
    """Fill in a verdict; false if the type does not support the kernel."""
    task, name = verdict.task, verdict.name
    try:
        model = build(task, name, verdict.kernel, seed=setting.seed)
        witness = model if verdict.kernel == "eager" else build(task, name, "eager", seed=setting.seed)
    except NotBuildable as error:
        verdict.outcome, verdict.reason = "not built", str(error)
        return verdict.kernel == "eager"
    except ValueError as error:
        if "does not support an attention implementation" in str(error):
            return False
        verdict.outcome, verdict.reason = "failed", f"build: {first_line(error)}"
        return True
    try:
        for number, inputs in enumerate(cases(task, model, setting)):
            try:
                compare(verdict, model, witness, inputs, setting)
            except NoOracleError as error:
                if not number:
                    raise
                verdict.notes.add(f"batch not compared: {error}")
        if name in NO_SOFTMAX:
            verdict.outcome, verdict.reason = "wrong", f"a trace of {NO_SOFTMAX[name]}"
    except gentrace.GentraceError as error:
        refused = "no attention" if name in NO_SOFTMAX else "refused"
        verdict.outcome, verdict.reason = refused, first_sentences(error)
    except Wrong as error:
        verdict.outcome, verdict.reason = "wrong", str(error)
    except NoOracleError as error:
        verdict.outcome, verdict.reason = "failed", f"no oracle: {error}"
    except Exception as error:
        verdict.outcome, verdict.reason = "failed", f"{type(error).__name__}: {first_line(error)}"
    return True


def cases(task: str, model: PreTrainedModel, setting: Setting) -> list[Inputs]:
    """One text, and a padded batch of two: padded on the left if the text is to be continued, else on the right."""
    single = model_inputs(task, model, length=setting.length, seed=setting.seed)
    both: Inputs = dict(model_inputs(task, model, length=setting.length, batch=2, seed=setting.seed + 1))
    mask = both.get("attention_mask")
    if mask is not None:
        columns = slice(-PADDED, None) if task == "masked" or is_encoder_decoder(model) else slice(PADDED)
        mask[1, columns] = 0
        ids = both.get("input_ids")
        if ids is not None and ids.shape == mask.shape:
            ids[1, columns] = getattr(model.config, "pad_token_id", None) or PAD
    return [dict(single), both]


def compare(
    verdict: Verdict, model: PreTrainedModel, witness: PreTrainedModel, inputs: Inputs, setting: Setting
) -> None:
    """Record one case and compare every sequence of it.

    Raises:
        Wrong: If a trace says something else than transformers.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if verdict.task == "masked":
            with gentrace.record(model) as recorder, torch.no_grad():
                model(**inputs)
            done, same = None, plain_references(witness, inputs)
        else:
            with gentrace.record(model) as recorder:
                done = generate(model, inputs, setting.new)
        traces = recorder.traces
        for trace in traces:
            _ = trace.tokens
    own = [str(warning.message) for warning in said if "gentrace" in str(getattr(warning, "filename", ""))]
    own += [str(warning.message) for warning in said if issubclass(warning.category, gentrace.FidelityWarning)]
    verdict.notes |= {f"warned: {text.split('. ')[0]}" for text in own}
    count = len(same) if done is None else len(done.logits)
    if len(traces) != count:
        raise Wrong(f"{len(traces)} traces of {count} sequences")
    for row, trace in enumerate(traces):
        verdict.taps |= {info.source for info in trace.layers}
        verdict.layers = len(trace.layers)
        if done is not None:
            check_ids(trace, done, row)
        references = iter([same[row]]) if done is None else references_of(witness, done, setting.new, row)
        reference, error = closest(trace, references, verdict.name)
        verdict.witnesses.add(reference.witness)
        verdict.error = error if verdict.error != verdict.error else max(error, verdict.error)
        if not error <= LIMIT:
            raise Wrong(f"attention differs by {error:.1e}")
        check_logprobs(trace, reference, whole=done is not None and verdict.name not in NEWEST_ROW)


def references_of(witness: PreTrainedModel, done: Generated, new: int, row: int) -> Iterator[Reference]:
    """A full forward if one agrees with generate; then generate's own fragments."""
    whole = full_reference(witness, done, row)
    if whole is not None:
        yield whole
    try:
        parts = stitched_reference(witness, done, new, row)
    except NoOracleError:
        if whole is None:
            raise
        return
    # A full forward knows the logits of the prompt too; those that were generated from, the fragments know better.
    yield parts if whole is None else replace(parts, logits=_joined(parts.logits, whole.logits))


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """``[position, vocab]`` the first logits, and the second where the first are unknown."""
    if first is None or second is None or first.shape != second.shape:
        return second
    return torch.where(first.isnan(), second, first)


def closest(trace: gentrace.Trace, references: Iterator[Reference], name: str) -> tuple[Reference, float]:
    """The first reference that the trace equals, or the nearest, and the largest difference from it.

    transformers' own forwards, with a cache and without, can differ by more than rounding may cost here; and what
    generate does not compute, only its fragments tell.

    Raises:
        Wrong: If layers are missing or unknown, or have another shape, by any reference.
    """
    best: tuple[Reference, float] | None = None
    fault: Wrong | None = None
    for reference in references:
        try:
            error = largest_error(trace, reference, name)
        except Wrong as wrong:
            fault = wrong
            continue
        if best is None or error < best[1]:
            best = reference, error
        if error <= LIMIT:
            break
    if best is None:
        raise fault or NoOracleError("nothing to compare with")
    return best


def check_ids(trace: gentrace.Trace, done: Generated, row: int) -> None:
    """The trace's ids end with what generate returned for this sequence."""
    returned = done.sequences[row] if len(done.sequences) == len(done.logits) else None
    if returned is None or returned.dim() != 1:
        return
    new = done.logits.shape[1]
    if trace.tokens.ids[-new:].tolist() != returned[-new:].tolist():
        raise Wrong(f"ids end with {trace.tokens.ids[-new:].tolist()}, generate returned {returned[-new:].tolist()}")


def largest_error(trace: gentrace.Trace, reference: Reference, name: str) -> float:
    """The largest difference of any layer.

    Raises:
        Wrong: If layers are missing, or have another shape.
    """
    worst = 0.0
    for kind in KINDS:
        for index, expected in paired(trace, reference, kind):
            found = trace.attention(index, kind=kind)
            if name in WITHOUT_SINKS:
                found = trace.scores(index, kind=kind).softmax(-1)
            if name in RAW_SCORES:
                expected = expected.softmax(-1)
            if found.shape != expected.shape:
                raise Wrong(
                    f"{kind} attention of layer {index} is {tuple(found.shape)}, transformers' {tuple(expected.shape)}"
                )
            if name in NEWEST_ROW:
                unseen = found.isnan().all(-1).all(0)
                unseen &= torch.arange(len(unseen)) < trace.tokens.prompt_length - 1
                expected = expected.masked_fill(unseen[:, None], torch.nan)
            if not torch.equal(found.isnan(), expected.isnan()):
                raise Wrong(
                    f"{int(found.isnan().any(-1).any(0).sum())} rows of {kind} attention of layer {index} are NaN"
                )
            worst = max(worst, float((found - expected.float()).nan_to_num().abs().max()) if found.numel() else 0.0)
    return worst


def paired(trace: gentrace.Trace, reference: Reference, kind: Kind) -> list[tuple[int, Tensor]]:
    """The traced layers of a kind, each with what transformers returned for it.

    Raises:
        Wrong: If transformers returned softmax attention for a layer that was not traced, or the other way round.
    """
    traced = sorted(info.index for info in trace.layers if info.kind == kind)
    returned = reference.matrices.get(kind, [])
    soft = [matrix for matrix in returned if is_softmax(matrix)]
    # What is no softmax is not attention: linear layers return a matrix too.
    for layers in (returned, soft):
        if len(layers) == len(traced):
            return list(zip(traced, layers, strict=True))
    if len(traced) < len(soft):
        raise Wrong(f"layers missing: {kind} attention of layers {traced} was traced, transformers has {len(soft)}")
    raise Wrong(f"layers unknown to transformers: {kind} attention of layers {traced}, transformers has {len(soft)}")


def is_softmax(matrix: Tensor) -> bool:
    """Whether rows are non-negative and add up to 1, or to less where a sink takes a share."""
    matrix = matrix.float().nan_to_num()
    total = matrix.sum(-1)
    return bool((matrix >= 0).all()) and bool((total <= 1 + 1e-3).all()) and bool((total > 0).any())


def check_logprobs(trace: gentrace.Trace, reference: Reference, *, whole: bool) -> None:
    """Log-probabilities are those of transformers' logits.

    Raises:
        Wrong: If they are not, or if they should be known and are not.
    """
    if reference.logits is None or reference.logits.dim() != 2:
        return
    ids = trace.tokens.ids
    logits = reference.logits[: len(ids) - 1]
    if len(logits) < len(ids) - 1 or int(ids.min()) < 0:
        return
    expected = logits.float().log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
    found = trace.tokens.logprobs[1:]
    known = ~expected.isnan()
    if not whole:
        known &= ~found.isnan()
    if found[known].isnan().any():
        raise Wrong(f"{int(found[known].isnan().sum())} of {int(known.sum())} logprobs are unknown")
    error = float((found - expected)[known].abs().max()) if known.any() else 0.0
    if not error <= LOGPROB_LIMIT:
        raise Wrong(f"logprobs differ by {error:.1e}")


def first_line(error: BaseException) -> str:
    """The first line of a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def first_sentences(error: gentrace.GentraceError) -> str:
    """What was being done and what was seen."""
    return ". ".join(str(error).split(". ")[:2])[:300]
