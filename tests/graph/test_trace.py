from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ModelError
from pipeline.graph import DependencyGraph, trace
from pipeline.prune import SlimmingWarning, slim


def reasons(graph: DependencyGraph) -> dict[str, str]:
    return {frozen.name: frozen.reason for frozen in graph.frozen}


def names(graph: DependencyGraph) -> list[str]:
    return [group.name for group in graph.groups]


def conv(inner: int, outer: int) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1)


class Around(nn.Module):
    """Three convolutions; `middle` stands between the first and the second."""

    def __init__(self, middle: nn.Module, inner: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(inner, 8), conv(8, 4)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.c(functional.relu(self.b(self.middle(self.a(x)))))


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator, no-any-return]


IMAGE = torch.zeros(1, 3, 8, 8)


def test_unknown_operator_freezes_what_reaches_it_and_is_named() -> None:
    graph = trace(Around(Call(torch.linalg.matrix_exp)), IMAGE)
    assert names(graph) == ["b"]
    assert reasons(graph)["a"] == "operator aten.linalg_matrix_exp.default in middle has no pruning rule"


@pytest.mark.parametrize(
    ("middle", "inner", "reason"),
    [
        (nn.Softmax(1), 8, "aten.softmax.int in middle needs all of it"),
        (Call(lambda x: x.cumsum(1)), 8, "aten.cumsum.default in middle needs all of it"),
        (
            Call(lambda x: x[:, 3:4] * x[:, 3].unsqueeze(1)),
            1,
            "aten.select.int in middle picks one of it by number",
        ),
        (
            Call(lambda x: x + torch.arange(8.0).view(1, 8, 1, 1)),
            8,
            "aten.add.Tensor in middle combines it with a tensor of fixed",
        ),
    ],
)
def test_operator_that_needs_every_channel_freezes_them_with_the_reason(
    middle: nn.Module, inner: int, reason: str
) -> None:
    graph = trace(Around(middle, inner), IMAGE)
    assert names(graph)[-1] == "b"
    assert any(reason in frozen.reason for frozen in graph.frozen if frozen.name == "a")


@pytest.mark.parametrize(
    ("middle", "inner"),
    [
        (Call(lambda x: x.view(x.size(0), 8, -1).view(-1, 8, 8, 8)), 8),
        (Call(lambda x: x[:, :6]), 6),
        (Call(lambda x: torch.cat([x[:, 4:], x[:, :4]], 1)), 8),
        (Call(lambda x: x[:, :4] + x[:, 4:]), 4),
    ],
    ids=["baked view", "part", "swapped halves", "sum of halves"],
)
def test_width_that_the_code_bakes_in_is_slimmed_as_a_graph(middle: nn.Module, inner: int) -> None:
    model = Around(middle, inner)
    graph = trace(model, IMAGE)
    assert {"a", "b"} <= set(names(graph))
    plan = graph.plan({group.name: range(0, group.width, 2) for group in graph.groups})
    assert plan.form == "graph"
    with pytest.warns(SlimmingWarning, match="Around bakes widths into its code"):
        slimmed = slim(model, plan)
    assert slimmed(torch.ones(3, 3, 8, 8)).shape == (3, 4, 8, 8)
    assert slimmed.get_parameter("a.weight").shape[0] == 4


def test_heads_and_their_width_are_two_axes_of_one_grid() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(6, 3 * 4 * 5), nn.Linear(20, 6)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 5).permute(2, 0, 3, 1, 4).unbind(0)
            y = functional.scaled_dot_product_attention(q, k, v)
            return self.proj(y.transpose(1, 2).flatten(2))

    graph = trace(Attend(), torch.zeros(1, 7, 6))
    found = {group.granularity: group for group in graph.groups}
    assert set(found) == {"head", "head width"}
    assert (found["head"].width, found["head"].within) == (4, None)
    assert found["head width"].within == found["head"].name
    widths = {(m.parameter, m.dim): m.indices.shape for m in found["head"].members}
    assert widths == {("qkv.weight", 0): (4, 15), ("qkv.bias", 0): (4, 15), ("proj.weight", 1): (4, 5)}


def test_inputs_and_outputs_are_frozen() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.side = conv(3, 8), conv(8, 6), conv(8, 7)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = functional.relu(self.body(x))
            return {"head": self.head(y), "side": self.side(y).mean((2, 3))}

    graph = trace(TwoHeads(), IMAGE)
    assert names(graph) == ["body"]
    assert reasons(graph) == {
        "x": "it is an input of the model",
        "head": "it is part of the model's output",
        "side": "it is part of the model's output",
    }


def test_stream_of_the_image_itself_is_frozen() -> None:
    class Refine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(8, 3), conv(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(x + self.b(functional.relu(self.a(x))))

    graph = trace(Refine(), IMAGE)
    assert names(graph) == ["a"]
    assert "tensor of fixed width" in reasons(graph)["b"]


def test_depthwise_layer_on_the_image_may_only_lose_outputs_of_every_channel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.Conv2d(8, 4, 1))
    group = trace(model, IMAGE).group("0")
    assert group.width == 2
    assert group.members[0].indices.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_parameter_that_is_also_used_as_a_whole_keeps_its_shape() -> None:
    class Regularised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(8, 6), conv(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            scale = torch.linalg.matrix_norm(self.a.weight.flatten(1))
            return self.c(self.b(self.a(x))) * scale

    graph = trace(Regularised(), IMAGE)
    assert names(graph) == ["b"]
    assert "aten.linalg_matrix_norm.str_ord" in reasons(graph)["a"]


def test_shared_layer_couples_all_its_uses() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.twice, self.last = conv(3, 8), conv(3, 8), conv(8, 6), conv(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.twice(self.a(x)), self.twice(self.b(x))], 1))

    graph = trace(Shared(), IMAGE)
    assert [(group.name, group.producers) for group in graph.groups] == [
        ("a", ("a", "b")),
        ("twice", ("twice",)),
    ]
    last = graph.layers[-1]
    assert (last.in_groups, last.in_repeat) == (("twice",), 2)


def test_encoder_layer_is_seen_through() -> None:
    class Encode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(5, 16), nn.Linear(16, 12)
            self.encoder = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(functional.relu(self.outer(self.encoder(self.inner(x)))).mean(1))

    graph = trace(Encode(), torch.zeros(1, 7, 5))
    widths = {group.granularity: group.width for group in graph.groups if group.granularity != "channel"}
    assert widths == {"head": 2, "head width": 8}
    assert {group.width for group in graph.groups if group.granularity == "channel"} == {16, 24, 12}
    assert set(reasons(graph)) == {"x", "head"}


def test_order_and_names_are_the_same_every_time() -> None:
    first, second = (trace(Around(nn.BatchNorm2d(8)), IMAGE) for _ in range(2))
    assert first == second


def test_group_says_what_it_slices() -> None:
    graph = trace(Around(nn.BatchNorm2d(8)), IMAGE)
    group = graph.group("a")
    assert (group.width, group.producers, group.consumers) == (8, ("a",), ("b",))
    assert {(m.parameter, m.dim, m.role) for m in group.members} == {
        ("a.weight", 0, "out"),
        ("a.bias", 0, "along"),
        ("middle.weight", 0, "along"),
        ("middle.bias", 0, "along"),
        ("middle.running_mean", 0, "along"),
        ("middle.running_var", 0, "along"),
        ("b.weight", 1, "in"),
    }
    assert all(member.indices.tolist() == [[unit] for unit in range(8)] for member in group.members)


def test_model_that_branches_on_data_is_refused_in_our_words() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(ModelError, match=r"Branching cannot be captured: .*forward must not branch"):
        trace(Branching(), IMAGE)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"Around does not run on inputs \(1, 5, 8, 8\)"):
        trace(Around(nn.Identity()), torch.zeros(1, 5, 8, 8))
    with pytest.raises(ModelError, match="must be one tensor or a tuple of tensors"):
        trace(Around(nn.Identity()), ())


def test_model_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = Around(nn.Identity())
    with pytest.raises(ModelError, match=r"a.weight of Around is on the meta device"):
        trace(model, IMAGE)


def test_a_unit_that_is_alone_along_a_dimension_stays() -> None:
    class Gates(nn.Module):
        """Every gate is sliced out and broadcast over all channels."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.gates, self.last = conv(3, 8), conv(3, 4), conv(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            body, gates = self.body(x), self.gates(x)
            return self.last(body * gates[:, :1] + body * gates[:, 1:2] + gates[:, 2:].sum(1, keepdim=True))

    graph = trace(Gates(), IMAGE)
    assert {group.name: group.width for group in graph.groups} == {"body": 8, "gates": 2}
    assert "picks one of it by number" in reasons(graph)["gates"]
