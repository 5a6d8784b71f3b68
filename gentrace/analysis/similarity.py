"""Which heads do the same: distances between heads' attention, and what a clustering makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from gentrace.analysis.blocks import BLOCK, Queries, blocks, layers_of, rows_of
from gentrace.analysis.errors import MeasureError
from gentrace.analysis.measure import Array, Measure
from gentrace.analysis.registry import register
from gentrace.analysis.units import per_unit
from gentrace.trace.info import Kind, LayerInfo
from gentrace.trace.trace import Trace


@register
def head_distance(
    trace: Trace,
    *,
    layers: Sequence[int] | None = None,
    kind: Kind = "self",
    queries: Queries = "all",
    most: int | None = 64,
) -> Measure:
    """How differently two heads look: the Jensen–Shannon divergence of their rows, averaged over rows.

    As in Clark et al. 2019, "What Does BERT Look At?", section 6, who sum over rows where this is the mean, so that it
    does not grow with the text. It is the divergence, 0 for heads that agree and 1 bit for heads that never look at the
    same key; its square root is a metric. With learned sinks the weights of a row are divided by their sum.

    Every pair of heads is compared in every row, which is much work: for a long text ``most`` rows are taken at even
    distances.

    Args:
        trace: The trace.
        layers: Layer numbers, or None for all.
        kind: Which attention.
        queries: Which rows.
        most: Largest number of rows to compare; None for all.

    Returns:
        ``[layer, head, other_layer, other_head]`` in bits, symmetric. ``unseen`` counts the chosen rows that some layer
        never saw, ``blind`` those in which some head sees nothing; both are left out of all means.

    Raises:
        AttentionUnavailable: If a layer was not recorded.
        MeasureError: If the rows do not exist or ``most`` is not positive.
    """
    if most is not None and most < 1:
        raise MeasureError("measuring head_distance", f"most={most}", "give 1 or more, or None")
    chosen, asked = layers_of(trace, layers, kind), rows_of(trace, queries, kind)
    rows = list(asked)
    if most is not None and len(rows) > most:
        rows = sorted({rows[place] for place in np.linspace(0, len(rows) - 1, most).round().astype(int)})
    heads = [info.heads for info in chosen]
    total = torch.zeros(sum(heads), sum(heads), dtype=torch.float64)
    used = unseen = blind = 0
    for weights in _all_heads(trace, chosen, rows):
        for row in weights.unbind(1):
            mass = row.sum(-1, keepdim=True)
            if mass.isnan().any():
                unseen += 1
            elif (mass == 0).any():
                blind += 1
            else:
                total += _divergences(row / mass)
                used += 1
    mean = (total / used).numpy() if used else np.full(total.shape, np.nan)
    return _four_axes(mean, chosen, unseen, blind)


@dataclass(frozen=True, eq=False)
class HeadClusters:
    """Heads in groups of those that look alike."""

    heads: tuple[tuple[int, int], ...]
    """The heads, as (layer, head)."""
    labels: tuple[int, ...]
    """For each head its cluster, 1 … n."""
    linkage: Array
    """[merge, 4] SciPy's linkage matrix over ``heads``: the two joined, their distance, how many heads that makes."""
    order: tuple[int, ...]
    """Indices into ``heads`` in the order of a dendrogram's leaves, for drawing a distance matrix with blocks."""
    places: Array
    """[head, 2] a plane in which heads that look alike lie close together (classical multidimensional scaling)."""

    def members(self, label: int) -> tuple[tuple[int, int], ...]:
        """The heads of one cluster."""
        return tuple(head for head, own in zip(self.heads, self.labels, strict=True) if own == label)


def cluster_heads(distance: Measure, *, clusters: int | None = None, cut: float = 0.3) -> HeadClusters:
    """Group heads by what they look at: hierarchical clustering with average linkage, and a map of them.

    Clark et al. 2019, section 6, draw the map by multidimensional scaling of the same distances. SciPy clusters,
    scikit-learn's ``ClassicalMDS`` scales; nothing is random.

    Args:
        distance: What `head_distance` gives.
        clusters: How many groups to make; None cuts where the mean distance exceeds ``cut``.
        cut: Distance in bits, if ``clusters`` is None.

    Returns:
        The groups.

    Raises:
        MeasureError: If it is not such a measure, has fewer than two heads, or holds NaN.
    """
    from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
    from scipy.spatial.distance import squareform
    from sklearn.manifold import ClassicalMDS

    heads, square = _square(distance)
    if clusters is not None and not 1 <= clusters <= len(heads):
        raise MeasureError("clustering heads", f"{clusters} clusters of {len(heads)} heads", "choose a number between")
    tree = linkage(squareform(square, checks=False), method="average", optimal_ordering=True)
    if clusters is None:
        labels = fcluster(tree, cut, criterion="distance")
    else:
        labels = fcluster(tree, clusters, criterion="maxclust")
    places = ClassicalMDS(n_components=2, metric="precomputed").fit_transform(square)
    order = tuple(int(leaf) for leaf in leaves_list(tree))
    return HeadClusters(heads, tuple(int(label) for label in labels), np.asarray(tree), order, np.asarray(places))


def _all_heads(trace: Trace, chosen: list[LayerInfo], rows: list[int]) -> Iterator[Float64[Tensor, "head query key"]]:
    """The chosen rows of all layers' heads, some at a time, ``[head, query, key]`` over all heads of all layers."""
    keys = trace.counts(chosen[0])[1]
    most = max(1, BLOCK // max(1, keys * sum(info.heads for info in chosen)))
    for start in range(0, len(rows), most):
        part = rows[start : start + most]
        layers: list[Tensor] = []
        for info in chosen:
            span = range(part[0], part[-1] + 1)
            wanted = torch.tensor(part)
            kept = [
                block.weights[
                    :, wanted[(wanted >= block.queries.start) & (wanted < block.queries.stop)] - block.queries.start
                ]
                for block in blocks(trace, info, span)
            ]
            layers.append(torch.cat(kept, 1))
        yield torch.cat(layers)


def _divergences(row: Float64[Tensor, "head key"]) -> Float64[Tensor, "head other"]:
    """Jensen–Shannon divergence in bits of every pair of distributions."""
    row = row[:, row.sum(0) > 0]
    entropy = torch.special.entr(row).sum(-1)
    found = torch.zeros(len(row), len(row), dtype=torch.float64)
    for first in range(len(row) - 1):
        others = row[first + 1 :]
        mixed = torch.special.entr((others + row[first]) / 2).sum(-1)
        found[first, first + 1 :] = mixed - (entropy[first] + entropy[first + 1 :]) / 2
    found = found.clamp_(min=0) * per_unit("bits")
    return (found + found.T).clamp_(max=1)


def _four_axes(mean: Array, chosen: list[LayerInfo], unseen: int, blind: int) -> Measure:
    """A square over all heads of all layers as ``[layer, head, other_layer, other_head]``."""
    most = max(info.heads for info in chosen)
    real = [place * most + head for place, info in enumerate(chosen) for head in range(info.heads)]
    full = np.full((len(chosen) * most, len(chosen) * most), np.nan)
    full[np.ix_(real, real)] = mean
    numbers, heads = tuple(info.index for info in chosen), tuple(range(most))
    return Measure(
        "head_distance",
        full.reshape(len(chosen), most, len(chosen), most),
        ("layer", "head", "other_layer", "other_head"),
        "bits",
        {"layer": numbers, "head": heads, "other_layer": numbers, "other_head": heads},
        unseen,
        blind,
        frozenset((info.index, head) for info in chosen for head in range(info.heads, most)),
    )


def _square(distance: Measure) -> tuple[tuple[tuple[int, int], ...], Array]:
    """The heads and their distances as one square matrix."""
    axes = ("layer", "head", "other_layer", "other_head")
    if distance.axes != axes:
        raise MeasureError("clustering heads", f"got {distance!r}", "give what head_distance returns")
    pairs = [
        (int(layer), int(head)) for layer in distance.coordinates["layer"] for head in distance.coordinates["head"]
    ]
    real = [place for place, pair in enumerate(pairs) if pair not in distance.absent]
    square = distance.values.reshape(len(pairs), len(pairs))[np.ix_(real, real)]
    if len(real) < 2 or np.isnan(square).any():
        raise MeasureError(
            "clustering heads",
            f"{len(real)} heads, {int(np.isnan(square).sum())} unknown distances",
            "choose other rows",
        )
    return tuple(pairs[place] for place in real), square
