from __future__ import annotations

import torch
from rule_cases import assert_slims_exactly, entries, reason, widths
from torch import Tensor, nn

from pipeline.graph import trace

TOKENS = torch.arange(12).reshape(2, 6) % 9


class Tagger(nn.Module):
    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(9, 8, padding_idx=0), nn.Parameter(torch.randn(1, 6, 8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 9, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.tokens(x) + self.places))


def test_columns_of_a_table_are_channels_and_its_rows_stay() -> None:
    graph = assert_slims_exactly(Tagger(), TOKENS)
    assert widths(graph) == {"tokens": 8}
    assert entries(graph, "tokens", "tokens.weight", 1) == [[unit] for unit in range(8)]
    assert entries(graph, "tokens", "places", 2) == [[unit] for unit in range(8)]


def test_table_that_is_also_the_last_layer_stays_tied() -> None:
    graph = assert_slims_exactly(Tagger(tied=True), TOKENS)
    assert widths(graph) == {"tokens": 8}
    assert [member.parameter for member in graph.groups[0].members].count("tokens.weight") == 1


def test_bags_of_rows_have_the_tables_columns() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(9, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.bag(x))

    assert widths(trace(Bag(), TOKENS)) == {"bag": 8}


def test_table_that_gives_the_output_is_frozen() -> None:
    assert reason(trace(nn.Sequential(nn.Embedding(9, 8)), TOKENS), "0") == "it is part of the model's output"
