from __future__ import annotations

import pytest
from rule_cases import IMAGE, around, assert_slims_exactly, entries, reason, widths
from torch import nn
from torch.nn import functional

from pipeline.graph import trace


@pytest.mark.parametrize(
    "padding",
    [
        nn.ZeroPad2d((1, 2, 3, 0)),
        nn.ConstantPad2d(1, 0.5),
        nn.ReflectionPad2d(2),
        nn.ReplicationPad2d(1),
        nn.CircularPad2d(1),
        nn.ZeroPad2d(-1),
    ],
)
def test_padding_of_space_passes_channels_on(padding: nn.Module) -> None:
    assert widths(assert_slims_exactly(around(padding), IMAGE)) == {"0": 8}


def test_constant_channels_that_are_added_can_go_and_the_others_keep_their_places() -> None:
    graph = assert_slims_exactly(around(lambda x: functional.pad(x, (0, 0, 0, 0, 1, 2)), taken=11), IMAGE)
    assert widths(graph) == {"0": 8}
    assert entries(graph, "0", "2.weight", 1) == [[unit + 1] for unit in range(8)]


def test_channels_added_to_a_shortcut_go_with_those_they_are_added_to() -> None:
    class Widening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.wide, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 10, 1), nn.Conv2d(10, 4, 1)

        def forward(self, x):  # type: ignore[no-untyped-def]
            x = self.stem(x)
            return self.last(self.wide(x) + functional.pad(x, (0, 0, 0, 0, 2, 2)))

    graph = assert_slims_exactly(Widening(), IMAGE)
    assert sorted(widths(graph).values()) == [4, 6]


def test_cropped_channels_are_of_no_use_to_the_next_layer() -> None:
    graph = assert_slims_exactly(around(lambda x: functional.pad(x, (0, 0, 0, 0, -2, -1)), taken=5), IMAGE)
    assert sum(widths(graph).values()) == 8


def test_mirrored_channels_are_frozen() -> None:
    graph = trace(
        around(lambda x: functional.pad(x.transpose(1, 3), (1, 1, 0, 0), "reflect").transpose(1, 3), 10),
        IMAGE,
    )
    assert widths(graph) == {}
    assert reason(graph, "0") == "aten.pad.default in 1 pads it with a fixed number of channels"
