"""Deciding where a fragment of attention lands, before anything is copied.

A cached generation shows attention in fragments: a block of queries against the keys that the cache handed to the
kernel. How those keys are laid out depends on the cache: a dynamic one grows, a static one is padded up to its
capacity, a sliding one keeps only the newest. All of them become the same case once each row has an absolute position.
"""

from dataclasses import dataclass

from gentrace.errors import CaptureError


@dataclass(frozen=True, slots=True)
class Landing:
    """Where one fragment lands, in absolute positions of the (padded) sequence."""

    query_start: int
    """Position of the first query row."""
    query_stop: int
    """One past the last query row."""
    key_start: int
    """Position of the fragment's key column 0; above 0 when a sliding cache has forgotten the oldest keys."""
    key_stop: int
    """One past the newest key. In self-attention that is ``query_stop``, since the queries are the newest tokens."""
    copy_start: int
    """Position of the first key that is not yet known and has to be copied."""

    @property
    def queries(self) -> int:
        """Number of query rows."""
        return self.query_stop - self.query_start

    @property
    def keys(self) -> int:
        """Number of key columns that hold real tokens; columns after them are unused capacity."""
        return self.key_stop - self.key_start


def plan_landing(*, fed: int, queries: int, keys: int, known: int) -> Landing:
    """Decide where a fragment lands.

    Args:
        fed: Positions that the cache held before this forward; the first query's position.
        queries: Query rows in the fragment.
        keys: Key columns in the fragment, unused capacity included.
        known: Positions whose keys are already recorded.

    Returns:
        The landing. When there are fewer key columns than positions, the columns are the newest ones, aligned to the
        right (a sliding cache); when there are more, they start at position 0 and the rest is unused capacity (a
        static cache).

    Raises:
        CaptureError: If there are fewer keys than queries, which no causal cache produces.
    """
    if keys < queries:
        raise CaptureError(
            f"placing {queries} query rows at position {fed}",
            f"the kernel was given only {keys} keys for them",
            "this is not causal self-attention over a KV cache; exclude the layer with layers=",
        )
    stop = fed + queries
    key_start = max(0, stop - keys)
    return Landing(fed, stop, key_start, stop, max(key_start, min(known, fed)))


def plan_cross(*, fed: int, queries: int, keys: int) -> Landing:
    """Decide where a fragment of cross-attention lands: its keys are the encoder's, all of them, at every step.

    Args:
        fed: Position of the first query.
        queries: Query rows in the fragment.
        keys: Encoder positions.
    """
    return Landing(fed, fed + queries, 0, keys, 0)
