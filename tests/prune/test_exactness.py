"""The reference against small examples worked out by hand, and models that are wrong on purpose."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from exactness import TOLERANCE, UnprovedError, assert_exact, check, reference
from prunable_nets import example, make, random_keep, traced
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import trace
from pipeline.graph.capture import Capture
from pipeline.graph.flow import Value
from pipeline.prune import slim
from pipeline.prune.connections import connection_plan

KEPT = [0, 2, 5]  # of six
X = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Run = Callable[..., Tensor]


class Function(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(*inputs)


def ignoring(run: Run, *inputs: Tensor) -> Tensor:
    """Return what `run` gives when every dimension of size six, of whatever tensor, keeps only `KEPT`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Function(run), inputs, strict=False)
    values: dict[str, Value | tuple[Value, ...]] = {}
    for node in program.graph.nodes:
        given = node.meta.get("val")
        several = given if isinstance(given, list | tuple) else [given]
        found = tuple(_value(tuple(one.shape)) for one in several if isinstance(one, Tensor))
        values[node.name] = found[0] if isinstance(given, Tensor) else found
    units = np.arange(6)
    capture = Capture(program, values, {}, tensors={}, atoms=units[:, None], units={"units": units})
    (result,) = reference(capture, capture.alive({"units": KEPT}), inputs, {})
    return result


def _value(shape: tuple[int, ...]) -> Value:
    return Value(shape, tuple(np.arange(6) if size == 6 else None for size in shape))


REDUCTIONS: dict[str, Run] = {
    "mean": lambda x: x.mean(1),
    "mean, kept": lambda x: x.mean(1, keepdim=True),
    "sum": lambda x: x.sum(dim=1),
    "variance": lambda x: x.var(1),
    "biased variance": lambda x: torch.var(x, dim=1, correction=0),
    "deviation": lambda x: x.std(1),
    "largest": lambda x: (x - 9).amax(1),
    "smallest": lambda x: (x + 9).amin(1),
    "largest with place": lambda x: (x - 9).max(1)[0],
    "product": lambda x: x.prod(1),
    "norm": lambda x: x.norm(dim=1),
    "first norm": lambda x: torch.linalg.vector_norm(x, 1, dim=1),
    "log-sum-exp": lambda x: x.logsumexp(1),
    "all dimensions": lambda x: x.mean(),
    "several dimensions": lambda x: x.std((1, 2)),
    "layer norm": lambda x: functional.layer_norm(x.transpose(1, 2), (x.shape[1],)).pow(2).sum(-1),
    "layer norm of two": lambda x: functional.layer_norm(x, tuple(x.shape[1:])).abs().sum(1),
    "rms norm": lambda x: functional.rms_norm(x.transpose(1, 2), (x.shape[1],), eps=1e-6).sum(-1),
    "unit length": lambda x: functional.normalize(x, dim=1).sum(1),
    "a norm of one group": lambda x: functional.group_norm(x, 1).abs().sum(1),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_statistics_are_of_the_kept_entries_alone(name: str) -> None:
    run = REDUCTIONS[name]
    torch.testing.assert_close(ignoring(run, X), run(X[:, KEPT]))


def test_group_norm_takes_every_groups_kept_channels() -> None:
    weight = torch.arange(1.0, 7.0, dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        return (functional.group_norm(x, 2, weight, weight.neg(), 1e-5) * 2).sum(1)

    def part(x: Tensor, scale: Tensor) -> Tensor:
        y = (x - x.mean((1, 2), keepdim=True)) / (x.var((1, 2), keepdim=True, correction=0) + 1e-5).sqrt()
        return (y * scale[:, None] - scale[:, None]).sum(1) * 2

    first, second = part(X[:, [0, 2]], weight[[0, 2]]), part(X[:, [5]], weight[[5]])
    torch.testing.assert_close(ignoring(run, X), first + second)


def test_contractions_ignore_what_was_removed() -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    kept_x, kept_w = X[:, KEPT], w[:, KEPT]
    cases: list[tuple[Run, Tensor]] = [
        (lambda x, w: w @ x, kept_w @ kept_x),
        (lambda x, w: torch.einsum("ok,bkp->bop", w, x), kept_w @ kept_x),
        (lambda x, w: functional.conv1d(x, w[:, :, None]), kept_w @ kept_x),
        (lambda x, w: functional.linear(x.transpose(1, 2), w), (kept_w @ kept_x).transpose(1, 2)),
    ]
    for run, wanted in cases:
        torch.testing.assert_close(ignoring(run, X, w), wanted)


def test_attention_stays_at_the_scale_of_the_full_head_width() -> None:
    q, k, v = (torch.randn(1, 2, 5, width, dtype=torch.float64) for width in (6, 6, 4))
    small = functional.scaled_dot_product_attention(q[..., KEPT], k[..., KEPT], v, scale=6**-0.5)
    found = ignoring(functional.scaled_dot_product_attention, q, k, v)
    torch.testing.assert_close(found, small)


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (lambda x: x.softmax(1).sum(1), "softmax"),
        (lambda x: x.cumsum(1).sum(1), "cumsum"),
        (lambda x: functional.avg_pool1d(x.transpose(1, 2), 2), "avg_pool1d"),
        (lambda x: torch.fft.fft(x, dim=1).real.sum(1), "fft"),
        (lambda x: x * 2, "output"),
        (lambda x: (x + x.flip(1)).sum(1), "removed ones"),
    ],
)
def test_what_has_no_meaning_for_the_kept_entries_alone_is_refused(run: Run, what: str) -> None:
    with pytest.raises(UnprovedError, match=what):
        ignoring(run, X)


# --- models that are right, and models that are wrong on purpose ---


@pytest.mark.parametrize("name", ["plain", "projection", "mobile", "concat", "product", "shuffle"])
def test_a_slimmed_model_is_exact(name: str) -> None:
    graph, model = traced(name), make(name)
    plan = graph.plan(random_keep(graph, 7))
    assert check(model, graph, plan, slim(model, plan), example(name)) <= TOLERANCE


def test_keeping_another_channel_is_caught() -> None:
    graph, model = traced("plain"), make("plain")
    name = graph.groups[0].name
    plan, other = graph.plan({name: [0, 1, 2]}), graph.plan({name: [0, 1, 3]})
    assert check(model, graph, plan, slim(model, plan), example("plain")) <= TOLERANCE
    with pytest.raises(AssertionError, match="output 0 of the slimmed model is off by"):
        assert_exact(model, graph, plan, slim(model, other), example("plain"))


def test_a_channel_in_another_place_is_caught() -> None:
    graph, model = traced("plain"), make("plain")
    plan = graph.plan({graph.groups[0].name: [0, 4, 7]})
    wrong = slim(model, plan)
    with torch.no_grad():
        wrong.conv2.weight.copy_(wrong.conv2.weight[:, [1, 0, 2]])
    assert check(model, graph, plan, wrong, example("plain")) > 1e-3


class Attending(nn.Module):
    """Single-head attention whose scale is read off at run time, or is the module's own."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, 8) for _ in range(3))
        self.out, self.scale = nn.Linear(8, 3), scale

    def forward(self, x: Tensor) -> Tensor:
        scale = self.q.weight.shape[0] ** -0.5 if self.scale is None else self.scale
        return self.out(((self.q(x) @ self.k(x).mT) * scale).softmax(-1) @ self.v(x))


@pytest.mark.parametrize(("scale", "right"), [(8**-0.5, True), (None, False)])
def test_a_scale_that_changes_with_the_width_is_caught(scale: float | None, right: bool) -> None:
    torch.manual_seed(0)
    model, x = Attending(scale), torch.randn(2, 4, 5)
    graph = trace(model, x)
    (group,) = [one for one in graph.groups if "q" in one.producers]
    plan = graph.plan({group.name: [1, 2, 6]})
    by_hand = copy.deepcopy(model)
    for layer in (by_hand.q, by_hand.k):
        layer.weight = nn.Parameter(layer.weight[[1, 2, 6]])
        layer.bias = nn.Parameter(layer.bias[[1, 2, 6]])
    assert (check(model, graph, plan, by_hand, x) <= TOLERANCE) == right


class Casting(nn.Module):
    """Norms in language models leave double precision for single; the comparison must not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.last(y.type_as(x)) + torch.zeros(3, dtype=torch.float32)


def test_models_that_cast_are_compared_in_double_precision_all_the_same() -> None:
    model, x = Casting(), torch.randn(3, 4)
    graph = trace(model, x)
    plan = graph.plan(random_keep(graph, 1))
    assert check(model, graph, plan, slim(model, plan), x) < 1e-14
    assert torch.get_default_dtype() == torch.float32
    assert {one.dtype for one in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["projection", "mobile"])
def test_a_dropped_block_lets_its_input_through(name: str) -> None:
    graph, model = traced(name), make(name)
    assert graph.blocks
    plan = graph.plan(random_keep(graph, 2), [graph.blocks[0].name])
    slimmed = slim(model, plan)
    assert check(model, graph, plan, slimmed, example(name)) <= TOLERANCE
    assert check(model, graph, plan, slim(model, graph.plan(random_keep(graph, 2))), example(name)) > 1e-3


def test_single_weights_that_a_plan_removes_are_zeros_in_the_reference() -> None:
    graph, model = traced("plain"), make("plain")
    channels = graph.plan(random_keep(graph, 3))
    plan = connection_plan(graph, keep=0.5, base=channels)
    assert check(model, graph, plan, slim(model, plan), example("plain")) <= TOLERANCE
    assert check(model, graph, plan, slim(model, channels), example("plain")) > 1e-3
