"""Which tokens stand opposite which: cases worked out on paper, and what holds for any two texts."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gentrace.views.alignment import Alignment, Block, align, merge_keys, merge_queries, merge_seen

PIECES = st.lists(st.sampled_from(["a", "b", " a", " b", "ab", " ab", ".", "", "\n", "是", "😀", "<s>"]), max_size=14)


def shown(alignment: Alignment) -> list[tuple[list[int], list[int], bool]]:
    return [(list(block.first), list(block.second), block.same) for block in alignment.blocks]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["I", " love", " you"], ["I", " love", " you"], [([0], [0], True), ([1], [1], True), ([2], [2], True)]),
        (["I", " love", " you"], ["I", " hate", " you"], [([0], [0], True), ([1], [1], False), ([2], [2], True)]),
        # Equal text, cut differently: a block ends where both cut.
        (
            ["un", "believ", "able", " story"],
            ["unbel", "ievable", " st", "ory"],
            [([0, 1, 2], [0, 1], True), ([3], [2, 3], True)],
        ),
        (["ab", "c"], ["a", "bc"], [([0, 1], [0, 1], True)]),
        # Cut differently and different: word against word.
        (["I", " lo", "ve", " me"], ["I", " hate", " me"], [([0], [0], True), ([1, 2], [1], False), ([3], [2], True)]),
        # … but for tokens that are equal.
        (["un", "happy"], ["un", "happ", "ily"], [([0], [0], True), ([1], [1, 2], False)]),
        (["19", "8", "4"], ["19", "4"], [([0], [0], True), ([1], [], False), ([2], [1], True)]),
        # A token before the text that only one has.
        (["<s>", "Once", " upon"], ["Once", " upon"], [([0], [], False), ([1], [0], True), ([2], [1], True)]),
        (["Once"], ["▁", "Once"], [([], [0], False), ([0], [1], True)]),
        # More words in one: in order, what is left over alone.
        (
            ["a", " b", " c", " z"],
            ["a", " x", " z"],
            [([0], [0], True), ([1], [1], False), ([2], [], False), ([3], [2], True)],
        ),
        (["a"], ["a", " b"], [([0], [0], True), ([], [1], False)]),
        # A character of several tokens belongs to the last of them.
        (["x", "", "", "😀", "y"], ["x", "😀", "y"], [([0], [0], True), ([1, 2, 3], [1], True), ([4], [2], True)]),
        (["", "😀"], ["", "😀"], [([0], [0], True), ([1], [1], True)]),
        (["我", "爱", "你"], ["我", "恨", "你"], [([0], [0], True), ([1], [1], False), ([2], [2], True)]),
        ([], ["a"], [([], [0], False)]),
        ([], [], []),
    ],
)  # fmt: skip
def test_by_hand(first: list[str], second: list[str], expected: list[tuple[list[int], list[int], bool]]) -> None:
    assert shown(align(first, second)) == expected
    assert shown(align(second, first)) == [(two, one, same) for one, two, same in expected]


@settings(deadline=None)
@given(PIECES, PIECES)
def test_every_token_is_there_once_and_in_order(first: list[str], second: list[str]) -> None:
    alignment = align(first, second)
    assert [at for block in alignment.blocks for at in block.first] == list(range(len(first)))
    assert [at for block in alignment.blocks for at in block.second] == list(range(len(second)))
    for block in alignment.blocks:
        assert block.first or block.second
        texts = "".join(first[at] for at in block.first), "".join(second[at] for at in block.second)
        assert block.same == (block.paired and texts[0] == texts[1])


@settings(deadline=None)
@given(PIECES)
def test_a_text_stands_opposite_itself(texts: list[str]) -> None:
    assert align(texts, texts).is_trivial
    assert len(align(texts, texts).blocks) == len(texts)


@settings(deadline=None)
@given(st.text("ab c.", min_size=1, max_size=20), st.data())
def test_one_text_cut_in_two_ways_meets_wherever_both_cut(text: str, data: st.DataObject) -> None:
    cuts = [
        [0, *sorted(data.draw(st.sets(st.integers(1, len(text) - 1)))), len(text)] if len(text) > 1 else [0, 1]
        for _ in range(2)
    ]
    first, second = ([text[a:b] for a, b in pairwise(one)] for one in cuts)
    alignment = align(first, second)
    assert all(block.same for block in alignment.blocks)
    assert len(alignment.blocks) == len(set(cuts[0]) & set(cuts[1])) - 1


def test_ranges_of_the_first_text() -> None:
    alignment = align(["a", " b", " c", " d"], ["a", " b", " d", " e"])
    assert shown(alignment)[2:] == [([2], [], False), ([3], [2], True), ([], [3], False)]
    assert shown(alignment.around(range(1, 3), 4)) == shown(alignment)[1:3]
    assert shown(alignment.around(range(3, 4), 4)) == shown(alignment)[3:]
    assert shown(alignment.clipped(3, 3))[3:] == [([], [2], False)]
    assert len(alignment.clipped(3, 2).blocks) == 3


def test_keys_add_up_and_queries_are_averaged() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.2, 0.3]])
    keys = [range(0), range(2), range(2, 3), range(3, 3)]
    by_key = merge_keys(weights, keys)
    torch.testing.assert_close(by_key[:, 1:3], torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.7, 0.3]]))
    assert by_key[:, [0, 3]].isnan().all()
    merged = merge_queries(by_key, [range(1), range(1, 3)])
    torch.testing.assert_close(merged[:, 1:3], torch.tensor([[1.0, 0.0], [0.85, 0.15]]))
    unseen = by_key.index_fill(0, torch.tensor([1]), torch.nan)
    torch.testing.assert_close(merge_queries(unseen, [range(1), range(1, 3)])[1, 1:3], torch.tensor([0.7, 0.3]))
    assert merge_queries(unseen, [range(1), range(1, 2)])[1].isnan().all()


def test_blocks_may_begin_in_the_middle() -> None:
    weights = torch.arange(6.0).reshape(2, 3)
    assert merge_keys(weights, [range(4, 6), range(6, 7)]).tolist() == [[1.0, 2.0], [7.0, 5.0]]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_rows_still_add_up_to_one(rows: list[int], columns: list[int]) -> None:
    spans = [
        [range(sum(sizes[:at]), sum(sizes[: at + 1])) for at in range(len(sizes))] for sizes in (rows, columns)
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(sum(rows) + 7 * sum(columns))
    weights = torch.randn(sum(rows), sum(columns), generator=generator).softmax(-1)
    merged = merge_queries(merge_keys(weights, spans[1]), spans[0])
    for size, row in zip(rows, merged, strict=True):
        if size and sum(columns):
            assert float(row.nansum()) == pytest.approx(1.0, abs=1e-5)
        else:
            assert row.isnan().all()


def test_a_block_is_visible_if_any_of_it_is() -> None:
    visible = torch.ones(4, 4, dtype=torch.bool).tril()
    seen = merge_seen(visible, [range(2), range(2, 4)], [range(1), range(1, 3), range(3, 4)])
    assert seen.tolist() == [[True, True, False], [True, True, True]]


def test_what_a_block_says_of_itself() -> None:
    assert Block(range(1), range(2), True).merged
    assert not Block(range(1), range(1), True).merged
    assert not Block(range(1), range(0), False).paired
