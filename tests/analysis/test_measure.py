"""A measure keeps its labels through every verb."""

import numpy as np
import pytest

from gentrace.analysis import Measure, MeasureError


def grid() -> Measure:
    """Layers 3 and 5, two heads, three queries; one value unknown."""
    values = np.arange(12.0).reshape(2, 2, 3)
    values[1, 0, 2] = np.nan
    labels = {"layer": (3, 5), "head": (0, 1), "query": (4, 5, 6)}
    return Measure("made", values, ("layer", "head", "query"), "nats", labels, unseen=1)


def test_layers_and_heads_are_chosen_by_their_numbers() -> None:
    assert grid()[5, 1].values.tolist() == [9, 10, 11]
    assert grid()[5, 1].axes == ("query",)
    assert float(grid()[3, 1, 6]) == 5
    assert grid()[3].select(query=5).values.tolist() == [1, 4]


def test_several_labels_keep_the_axis_in_their_order() -> None:
    chosen = grid().select(head=1, query=[6, 4])
    assert chosen.values.tolist() == [[5, 3], [11, 9]]
    assert chosen.coordinates == {"layer": (3, 5), "query": (6, 4)}
    assert (chosen.name, chosen.unit, chosen.unseen) == ("made", "nats", 1)


def test_the_mean_ignores_what_is_unknown() -> None:
    mean = grid().mean("query")
    assert mean.values.tolist() == [[1, 4], [6.5, 10]]
    assert mean.axes == ("layer", "head")
    assert float(grid().mean()) == pytest.approx((66 - 8) / 11)
    assert np.isnan(grid().select(query=[6])[5, 0].mean().values)


def test_long_form_has_a_row_a_value() -> None:
    frame = grid().to_pandas()
    assert list(frame.columns) == ["layer", "head", "query", "value"]
    assert len(frame) == 12
    assert frame.loc[(frame["layer"] == 5) & (frame["head"] == 1) & (frame["query"] == 4), "value"].tolist() == [9]
    assert frame.attrs == {"name": "made", "unit": "nats"}


def test_heads_that_a_layer_lacks_are_left_out_of_the_long_form() -> None:
    measure = Measure(
        "made",
        [[1, 2], [3, np.nan]],
        ("layer", "head"),
        "",
        {"layer": (0, 1), "head": (0, 1)},
        absent=frozenset({(1, 1)}),
    )
    assert measure.to_pandas()["value"].tolist() == [1, 2, 3]
    assert measure[1].to_pandas()["value"].tolist() == [3]
    assert measure.select(layer=[1, 0]).to_pandas()["value"].tolist() == [3, 1, 2]
    assert measure.mean("head").values.tolist() == [1.5, 3]


def test_a_number_has_a_long_form() -> None:
    assert Measure("one", 2.0, (), "", {}).to_pandas()["value"].tolist() == [2.0]


def test_an_empty_axis_has_a_long_form() -> None:
    empty = Measure("none", np.zeros((2, 0)), ("head", "query"), "", {"head": (0, 1), "query": ()})
    assert len(empty.to_pandas()) == 0
    assert np.isnan(empty.mean("query").values).all()


def test_values_cannot_be_changed_behind_its_back() -> None:
    values = np.zeros(2)
    measure = Measure("made", values, ("head",), "", {"head": (0, 1)})
    values[0] = 9
    assert measure.values.tolist() == [0, 0]
    with pytest.raises(ValueError, match="read-only"):
        measure.values[0] = 1


@pytest.mark.parametrize("labels", [{"layer": 4}, {"head": 2}, {"query": 0}, {"head": [0, 7]}])
def test_a_label_that_is_not_there_is_named_with_what_is(labels: dict[str, int]) -> None:
    with pytest.raises(MeasureError, match=r"selecting \w+ \d of made\. there are \d"):
        grid().select(**labels)


def test_an_axis_that_is_not_there_is_named_with_what_is() -> None:
    with pytest.raises(MeasureError, match="its axes are"):
        grid().select(key=0)
    with pytest.raises(MeasureError, match="its axes are"):
        grid().mean("key")
    with pytest.raises(MeasureError, match="as one number"):
        float(grid())


@pytest.mark.parametrize(
    ("axes", "labels"),
    [
        (("layer", "head"), {"layer": (0,), "head": (0, 1)}),
        (("layer",), {"layer": (0, 1)}),
        (("layer", "layer"), {"layer": (0, 1)}),
        (("layer", "head"), {"layer": (0, 1), "head": (0, 1), "key": (0,)}),
    ],
)
def test_values_must_fit_their_labels(axes: tuple[str, ...], labels: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(MeasureError, match="making the measure made"):
        Measure("made", np.zeros((2, 2)), axes, "", labels)
