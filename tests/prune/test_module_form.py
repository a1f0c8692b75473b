"""What a slimmed module of the user's own classes tells of itself, layer by layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from exactness import assert_exact
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from pipeline.errors import ModelError
from pipeline.graph import trace
from pipeline.prune import slim, uniform_plan


class Between(nn.Module):
    """A layer between two of its kind; every second unit of all three can go, but for the first's inputs."""

    def __init__(self, first: nn.Module, layer: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = first, layer, last

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(torch.tanh(self.first(x)))
        return self.last(x[0] if isinstance(x, tuple) else x)


IMAGE, LINE, VOLUME, TOKENS = (torch.zeros(2, *shape) for shape in ((3, 8, 8), (3, 8), (3, 4, 4, 4), (5, 3)))
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, object]]] = {
    "conv1d": (lambda: nn.Conv1d(8, 12, 3), LINE, {"in_channels": 4, "out_channels": 6, "groups": 1}),
    "conv3d": (lambda: nn.Conv3d(8, 12, 3), VOLUME, {"in_channels": 4, "out_channels": 6}),
    "depthwise": (
        lambda: nn.Conv2d(8, 8, 3, groups=8),
        IMAGE,
        {"in_channels": 4, "out_channels": 4, "groups": 4},
    ),
    "depthwise with a multiplier": (
        lambda: nn.Conv2d(8, 16, 3, groups=8),
        IMAGE,
        {"in_channels": 4, "out_channels": 8, "groups": 4},
    ),
    "groups": (
        lambda: nn.Conv2d(8, 8, 3, groups=4),
        IMAGE,
        {"in_channels": 4, "out_channels": 4, "groups": 2},
    ),
    "transposed": (
        lambda: nn.ConvTranspose2d(8, 12, 2, 2),
        IMAGE,
        {"in_channels": 4, "out_channels": 6, "groups": 1},
    ),
    "transposed groups": (
        lambda: nn.ConvTranspose2d(8, 8, 2, 2, groups=4),
        IMAGE,
        {"in_channels": 4, "out_channels": 4, "groups": 2},
    ),
    "batch norm": (lambda: nn.BatchNorm2d(8), IMAGE, {"num_features": 4}),
    "instance norm": (lambda: nn.InstanceNorm2d(8, affine=True), IMAGE, {"num_features": 4}),
    "group norm": (lambda: nn.GroupNorm(4, 8), IMAGE, {"num_channels": 4, "num_groups": 2}),
    "prelu": (lambda: nn.PReLU(8), IMAGE, {"num_parameters": 4}),
    "layer norm": (lambda: nn.LayerNorm(8), TOKENS, {"normalized_shape": (4,)}),
    "rms norm": (lambda: nn.RMSNorm(8), TOKENS, {"normalized_shape": (4,)}),
    "linear": (lambda: nn.Linear(8, 12), TOKENS, {"in_features": 4, "out_features": 6}),
    "lstm": (
        lambda: nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True),
        TOKENS,
        {"input_size": 4, "hidden_size": 3},
    ),
    "gru": (lambda: nn.GRU(8, 6, batch_first=True), TOKENS, {"input_size": 4, "hidden_size": 3}),
}


def ends(layer: nn.Module, example: Tensor) -> tuple[nn.Module, nn.Module]:
    """The layers around: 3 channels in, 8 into the layer, what it gives into 4."""
    if example is TOKENS:
        width = layer(torch.zeros(1, 2, 8))
        return nn.Linear(3, 8), nn.Linear((width[0] if isinstance(width, tuple) else width).shape[-1], 4)
    conv = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[example.ndim]
    width = layer(torch.zeros(1, 8, *(4,) * (example.ndim - 2))).shape[1]
    return conv(3, 8, 1), conv(width, 4, 1)


@pytest.mark.parametrize("name", CASES)
def test_half_as_wide_a_layer_says_so(name: str) -> None:
    make, example, told = CASES[name]
    torch.manual_seed(0)
    layer = make()
    first, last = ends(layer, example)
    model = Between(first, layer, last).eval()
    graph = trace(model, example)
    plan = uniform_plan(graph, keep=0.5)
    assert plan.form == "module"
    slimmed = slim(model, plan)
    assert type(slimmed.layer) is type(layer)
    assert {attribute: getattr(slimmed.layer, attribute) for attribute in told} == told
    assert_exact(model, graph, plan, slimmed, (torch.randn(example.shape),))


def test_embedding_tells_its_width() -> None:
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 4)).eval()
    tokens = torch.arange(6).reshape(2, 3)
    graph = trace(model, tokens)
    plan = uniform_plan(graph, keep=0.5)
    slimmed = slim(model, plan)
    assert (slimmed[0].num_embeddings, slimmed[0].embedding_dim, slimmed[1].in_features) == (11, 4, 4)
    assert_exact(model, graph, plan, slimmed, (tokens,))


def test_attention_loses_heads_and_width_together() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 4)
            self.attend = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x + self.attend(x, x, x, need_weights=False)[0])

    torch.manual_seed(0)
    model = Attend().eval()
    graph = trace(model, TOKENS)
    plan = uniform_plan(graph, keep=0.5)
    assert plan.form == "module"
    slimmed = slim(model, plan)
    attend = slimmed.attend
    assert (attend.embed_dim, attend.num_heads, attend.head_dim) == (8, 2, 4)
    assert_exact(model, graph, plan, slimmed, (torch.randn(TOKENS.shape),))


def test_numbers_in_the_users_own_attributes_are_mended() -> None:
    class Attention(nn.Module):
        """As vision transformers are often written: the number of heads is an attribute, their width too."""

        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim, self.parts = 4, 5, [12, 8]
            self.qkv, self.proj = nn.Linear(8, 60), nn.Linear(20, 20)
            self.last = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)
            y = (q @ k.transpose(-2, -1) * 5**-0.5).softmax(-1) @ v
            first, second = self.proj(y.transpose(1, 2).reshape(b, n, -1)).split(self.parts, dim=-1)
            return self.last(second * first.mean(-1, keepdim=True))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), Attention()).eval()
    graph = trace(model, TOKENS)
    plan = uniform_plan(graph, keep=0.5)
    assert plan.form == "module"
    slimmed = slim(model, plan)[1]
    assert (slimmed.num_heads, slimmed.head_dim, slimmed.parts) == (2, 5, [6, 4])
    assert (model[1].num_heads, model[1].parts) == (4, [12, 8])
    assert_exact(model, graph, plan, slim(model, plan), (torch.randn(TOKENS.shape),))


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_are_slimmed_at_their_source(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), norm(nn.Conv2d(8, 6, 3)), nn.Conv2d(6, 4, 1)).eval()
    graph = trace(model, IMAGE)
    plan = uniform_plan(graph, keep=0.5)
    assert plan.form == "module"
    slimmed = slim(model, plan)
    assert slimmed[1].weight.shape == (3, 4, 3, 3)
    assert_exact(model, graph, plan, slimmed, (torch.randn(IMAGE.shape),))


def test_results_of_earlier_runs_are_not_kept() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.scale, self.last = (
                nn.Conv2d(3, 8, 1),
                nn.Parameter(torch.rand(8)),
                nn.Conv2d(8, 4, 1),
            )
            self.cache: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if "scale" not in self.cache:
                self.cache["scale"] = self.scale.view(-1, 1, 1).exp()
            return self.last(self.first(x) * self.cache["scale"])

    model = Cached().eval()
    with torch.no_grad():
        model(IMAGE)
    slimmed = slim(model, uniform_plan(trace(model, IMAGE), keep=0.5))
    assert slimmed(IMAGE).shape == (2, 4, 8, 8)
    assert model.cache["scale"].shape == (8, 1, 1)


def test_a_plan_that_leaves_a_part_without_channels_is_one_error() -> None:
    class Parts(nn.Module):
        """Both parts of the first layer's channels are used alike, and can go one by one."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            small, large = self.first(x).split([4, 8], 1)
            pooled = [nn.functional.max_pool2d(part, 2) for part in (small, large)]
            return self.last(torch.cat(pooled, 1))

    graph = trace(Parts(), IMAGE)
    assert [group.width for group in graph.groups] == [12]
    with pytest.raises(ModelError, match=r"Parts cannot run on what the plan leaves.*keep some of each"):
        graph.plan({"first": range(4, 12)})
    assert graph.plan({"first": range(3, 12)}).widths == {"first": (12, 9)}
