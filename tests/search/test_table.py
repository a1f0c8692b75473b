from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from small_graphs import chain, joined, macs

from pipeline.errors import DeviceError, InputError
from pipeline.measurement import LayerTiming
from pipeline.search import EMPTY, LatencyTable, candidate_widths, table_shapes, times_of
from pipeline.search.shapes import shape_at

EMPTY_MS = 0.5


def table_of(graph, widths=None):
    """A table in which every layer takes its millions of multiply-adds in milliseconds."""
    shapes = (EMPTY, *table_shapes(graph, widths or candidate_widths(graph)))
    times = [EMPTY_MS if shape == EMPTY else EMPTY_MS + macs(shape) for shape in shapes]
    return LatencyTable.from_times(dict(zip(shapes, times, strict=True)))


def test_a_layer_is_looked_up_without_the_empty_call():
    graph = chain()
    shape = shape_at(graph.layers[2], {"a": 8, "b": 12})
    assert table_of(graph).lookup(shape) == pytest.approx(macs(shape))


def test_a_layer_faster_than_the_empty_call_costs_nothing():
    table = table_of(chain())
    fast = LatencyTable(tuple(replace(entry, p50_ms=0.1) for entry in table.entries), EMPTY_MS)
    assert fast.lookup(fast.entries[0].shape) == 0.0


def test_a_model_takes_its_layers_and_one_empty_call():
    graph, table, widths = chain(), table_of(chain()), {"a": 4, "b": 12}
    layers = table.layer_ms(graph, widths)
    assert list(layers) == ["a", "d", "b", "head"]
    assert table.predict(graph, widths) == pytest.approx(sum(layers.values()) + EMPTY_MS)
    assert table.predict(graph, {}) == pytest.approx(table.predict(graph, {"a": 16, "b": 24}))


def test_between_two_input_widths_the_time_lies_on_the_line():
    graph = joined()
    table = table_of(graph, {"a": (2, 8), "b": (4, 16), "c": (4, 8)})
    for layer in graph.layers[2:4]:
        between = shape_at(layer, {"a": 2, "b": 16, "c": 8})
        assert table.lookup(between) == pytest.approx(macs(between))


def test_an_input_outside_the_timed_ones_is_refused_not_guessed():
    table = table_of(chain(), {"a": (8, 16), "b": (12, 24)})
    with pytest.raises(InputError, match="no layer like"):
        table.predict(chain(), {"a": 4, "b": 12})


def test_an_output_width_that_was_not_timed_is_refused():
    with pytest.raises(InputError, match="no layer like conv2d 16>13"):
        table_of(chain()).predict(chain(), {"a": 16, "b": 13})


def test_a_layer_the_device_could_not_time_is_named():
    graph = chain()
    shapes = (EMPTY, *table_shapes(graph, candidate_widths(graph)))
    timings = [LayerTiming("0" * 64, 1.0, 50) for _ in shapes]
    timings[3] = LayerTiming("0" * 64, 0.0, 0, error="model refused")
    with pytest.raises(DeviceError, match=f"{shapes[3].key}.*model refused"):
        times_of(shapes, timings)


def test_a_table_without_the_empty_call_is_no_table():
    shapes = table_shapes(chain(), candidate_widths(chain()))
    with pytest.raises(ValueError, match="EMPTY"):
        LatencyTable.from_times(dict.fromkeys(shapes, 1.0))


def test_a_table_survives_json():
    adapter, table = TypeAdapter(LatencyTable), table_of(chain())
    assert adapter.validate_json(adapter.dump_json(table)) == table
