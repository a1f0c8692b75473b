from __future__ import annotations

from typing import Any

import pytest
import torch
from rule_cases import assert_slims_exactly, entries, reason, widths
from torch import Tensor, nn

from pipeline.graph import trace

SEQUENCE = torch.zeros(2, 5, 6)
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN}


class Spotter(nn.Module):
    """A linear layer, a recurrent one and a classifier of what `read` takes from the latter's results."""

    def __init__(self, kind: str, read: str = "last", **options: Any) -> None:
        super().__init__()
        options = {"batch_first": True, **options}
        self.inner = nn.Linear(6, 7)
        self.cell = KINDS[kind](7, 8, **options)
        self.read = read
        width = options.get("proj_size") or 8
        self.head = nn.Linear(width * (2 if options.get("bidirectional") and read != "state" else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        out, states = self.cell(self.inner(x))
        state = states[0] if isinstance(states, tuple) else states
        read = {"last": lambda: out[:, -1], "mean": lambda: out.mean(1), "state": lambda: state[-1]}
        return self.head(read[self.read]())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "num_layers": 2},
        {"bidirectional": True, "num_layers": 2, "read": "mean"},
        {"read": "state"},
        {"batch_first": False},
    ],
)
def test_hidden_units_are_shared_by_all_gates_layers_and_directions(
    kind: str, options: dict[str, Any]
) -> None:
    graph = assert_slims_exactly(Spotter(kind, **options), SEQUENCE, seeds=2)
    assert sorted(widths(graph).values()) == [7, 8]
    hidden = next(group for group in graph.groups if group.width == 8)
    gates = {"lstm": 4, "gru": 3, "tanh": 1}[kind]
    last = f"cell.weight_hh_l{options.get('num_layers', 1) - 1}"
    assert entries(graph, hidden.name, last, 0)[1] == [1 + 8 * gate for gate in range(gates)]
    assert entries(graph, hidden.name, last, 1)[1] == [1]


def test_projection_of_an_lstm_has_a_width_of_its_own_and_stays_the_narrower_one() -> None:
    graph = assert_slims_exactly(Spotter("lstm", proj_size=3, num_layers=2, bidirectional=True), SEQUENCE)
    assert sorted(widths(graph).values()) == [3, 7]
    assert reason(graph, "cell.weight_ih_l0") == "aten.lstm.input in cell projects it to fewer"


def test_given_initial_state_goes_with_the_hidden_units() -> None:
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)
            self.start = nn.Parameter(torch.randn(1, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            out, _ = self.cell(x, self.start.expand(-1, x.shape[0], -1).contiguous())
            return self.head(out[:, -1])

    graph = assert_slims_exactly(Started(), SEQUENCE)
    (group,) = graph.groups
    assert entries(graph, group.name, "start", 2) == [[unit] for unit in range(8)]


def test_state_that_is_an_input_of_the_model_keeps_its_width() -> None:
    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor, state: Tensor) -> Tensor:
            return self.head(self.cell(x, state)[0])

    assert widths(trace(Streaming(), (SEQUENCE, torch.zeros(1, 2, 8)))) == {}


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_single_steps_share_their_hidden_units(kind: type[nn.Module]) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = kind(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    graph = assert_slims_exactly(Loop(), SEQUENCE, seeds=1)
    assert list(widths(graph).values()) == [8]


def test_steps_in_time_are_frozen() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.cell, self.head = (
                nn.Linear(5, 9),
                nn.GRU(6, 8, batch_first=True),
                nn.Linear(8, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(self.steps(x.mT).mT)[0][:, -1])

    assert reason(trace(Mixed(), SEQUENCE), "steps") == "aten.gru.input in cell runs along it"
