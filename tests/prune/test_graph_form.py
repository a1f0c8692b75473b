"""The graph form is the user's model: outputs bit for bit, names, modes, ties; it goes where a module goes."""

from __future__ import annotations

import copy
import inspect
import io
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from exactness import TOLERANCE, check
from prunable_nets import CifarResNet20, ConcatNet, GroupedNet, MobileNet, ProductNet, ShuffleNet
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from pipeline.errors import ModelError
from pipeline.graph import DependencyGraph, trace
from pipeline.prune import SlimmingPlan
from pipeline.prune import graph_form_batch as batch_module
from pipeline.prune.graph_form import SlimmedGraph, graph_form

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Everything(nn.Module):
    """What a capture turns into more than a call: recurrence, autocast, constants, counters, modes, ties."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.3)
        self.block = nn.Sequential(self.first, nn.ReLU(inplace=True), self.drop)
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, dropout=0.3)
        self.norm, self.instance = nn.BatchNorm1d(6), nn.InstanceNorm1d(6, track_running_stats=True)
        self.back = nn.Linear(6, 8)
        self.back.weight = nn.Parameter(torch.randn(8, 6), requires_grad=False)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(3), persistent=False)
        self.scale = torch.linspace(1.0, 2.0, 6)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        x = self.block(self.block(x + y))
        self.calls += 1
        self.seen = self.seen + 1
        z, _ = self.lstm(x)
        z = z.float() * self.scale + torch.arange(6, device=x.device)
        with torch.autocast("cpu", enabled=False):
            z = z * 2
        z = self.instance(self.norm(z.transpose(1, 2))).transpose(1, 2)
        picked = x.reshape(x.shape[0], -1)[:, torch.tensor([0, 2, 1], device=x.device)]
        out = functional.dropout(self.back(z), 0.2, self.training)
        return {"out": out, "rest": (picked, None, 3), "made": x.new_zeros(x.shape[0], 2)}


TOKENS = (torch.randn(2, 4, 8), torch.randn(2, 4, 8))


def whole(net: nn.Module, *inputs: Tensor) -> tuple[DependencyGraph, SlimmedGraph]:
    """Return a trace, and its graph form with nothing taken out."""
    graph = trace(net, inputs)
    return graph, graph_form(net, graph.capture, graph.capture.alive({}))


def same(one: Any, other: Any) -> bool:
    """Tell whether two results have the same structure and, bit for bit, values."""
    (first, spec), (second, other_spec) = pytree.tree_flatten(one), pytree.tree_flatten(other)
    return spec == other_spec and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(first, second, strict=True)
    )


@pytest.fixture(scope="module")
def everything() -> tuple[Everything, DependencyGraph, SlimmedGraph]:
    torch.manual_seed(0)
    net = Everything().eval()
    return net, *whole(net, *TOKENS)


@pytest.mark.parametrize("kind", [CifarResNet20, MobileNet, ConcatNet, GroupedNet, ShuffleNet, ProductNet])
def test_with_nothing_removed_it_is_the_model_bit_for_bit_in_both_modes(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = kind().eval()
    _, form = whole(net, IMAGE)
    assert same(form(IMAGE), net(IMAGE))
    assert same(form(IMAGE[:1]), net(IMAGE[:1]))
    theirs = net.train()(IMAGE)
    assert same(form.train()(IMAGE), theirs)
    counted = {name for name in net.state_dict() if name.endswith("num_batches_tracked")}
    assert all(
        torch.equal(net.state_dict()[name], one)
        for name, one in form.state_dict().items()
        if name not in counted
    )


def test_structures_counters_and_random_modes_are_those_of_the_model(
    everything: tuple[Everything, DependencyGraph, SlimmedGraph],
) -> None:
    net, form = copy.deepcopy(everything[0]), copy.deepcopy(everything[2])
    three = tuple(torch.randn(3, 4, 8) for _ in range(2))
    for inputs in (TOKENS, three):
        assert same(form(*inputs), net(*inputs))
    torch.manual_seed(5)
    theirs = net.train()(*three)
    torch.manual_seed(5)
    assert same(form.train()(*three), theirs)
    assert torch.equal(form.calls, net.calls)
    assert torch.equal(form.norm.running_var, net.norm.running_var)


def test_the_mode_of_a_single_module_counts(
    everything: tuple[Everything, DependencyGraph, SlimmedGraph],
) -> None:
    form = copy.deepcopy(everything[2]).train()
    before = form.norm.running_mean.clone()
    form.norm.eval()
    form(*TOKENS)
    assert torch.equal(form.norm.running_mean, before)
    form.norm.train()
    form(*TOKENS)
    assert not torch.equal(form.norm.running_mean, before)


def test_names_ties_gradients_and_modes_are_kept(
    everything: tuple[Everything, DependencyGraph, SlimmedGraph],
) -> None:
    net, graph, _ = everything
    net = copy.deepcopy(net)
    net.norm.train()
    form = graph_form(net, graph.capture, graph.capture.alive({}))
    assert list(form.state_dict()) == list(net.state_dict())
    assert [name for name, _ in form.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert form.get_submodule("block.0") is form.first
    assert not form.back.weight.requires_grad
    assert form.first.weight.requires_grad
    assert [form.norm.training, form.instance.training] == [True, False]
    net.load_state_dict(form.state_dict())
    form.load_state_dict(net.state_dict())


def test_weights_are_those_of_the_given_model_and_it_stays_as_it_is(
    everything: tuple[Everything, DependencyGraph, SlimmedGraph],
) -> None:
    net, graph, _ = everything
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.first.weight.add_(1.0)
    before = copy.deepcopy(net.state_dict())
    form = graph_form(net, graph.capture, graph.capture.alive({}))
    assert torch.equal(form.first.weight, net.first.weight)
    with torch.no_grad():
        for tensor in (*form.parameters(), *form.buffers()):
            tensor.zero_()
    assert all(torch.equal(before[name], one) for name, one in net.state_dict().items())


def test_arguments_have_the_names_of_the_model(
    everything: tuple[Everything, DependencyGraph, SlimmedGraph],
) -> None:
    net, _, form = everything
    assert list(inspect.signature(form.forward).parameters) == ["x", "y"]
    assert same(form(y=TOKENS[1], x=TOKENS[0])["out"], net(*TOKENS)["out"])


def test_copies_other_precisions_and_devices_work(
    everything: tuple[Everything, DependencyGraph, SlimmedGraph],
) -> None:
    form = copy.deepcopy(everything[2])
    twin = copy.deepcopy(form)
    assert same(twin(*TOKENS)["out"], form(*TOKENS)["out"])
    assert twin.first.weight is not form.first.weight
    assert twin.get_submodule("block.0") is twin.first
    wide = twin.double()(*(one.double() for one in TOKENS))["out"]
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), form(*TOKENS)["out"], rtol=1e-4, atol=1e-4)
    assert twin.to("meta")(*(one.double().to("meta") for one in TOKENS))["out"].device.type == "meta"


def cut(net: nn.Module, x: Tensor, **keep: list[int]) -> tuple[DependencyGraph, SlimmedGraph]:
    graph = trace(net, x)
    form = graph_form(net, graph.capture, graph.capture.alive(keep))
    plan = SlimmingPlan(dict(keep), {}, {}, "")  # type: ignore[arg-type]
    assert check(net, graph, plan, form, x) <= TOLERANCE
    return graph, form


class Baked(nn.Module):
    """A convolutional net with its widths in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(8 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(x))) + torch.zeros(1, 8, 1, 1)
        return self.fc(x.view(-1, 8 * 64))


def test_a_slimmed_graph_trains_and_can_be_traced_and_slimmed_again() -> None:
    torch.manual_seed(0)
    graph, form = cut(Baked().eval(), IMAGE, conv=[0, 2, 3, 7])
    form.train()(IMAGE).square().sum().backward()
    assert all(
        one.grad is not None and one.grad.abs().sum() > 0 for one in (form.conv.weight, form.fc.weight)
    )
    again, smaller = cut(form.eval(), IMAGE, conv=[1, 2])
    assert [group.name for group in again.groups] == [group.name for group in graph.groups]
    assert smaller.conv.weight.shape == (2, 3, 3, 3)
    assert torch.equal(smaller.conv.weight, form.conv.weight[1:3])


@pytest.mark.parametrize("dynamo", [False, True])
def test_it_exports_to_onnx(dynamo: bool) -> None:
    torch.manual_seed(0)
    _, form = cut(Baked().eval(), IMAGE, conv=[0, 2, 3, 7])
    file = io.BytesIO()
    if dynamo:
        program = torch.onnx.export(form, (IMAGE,), dynamo=True, verbose=False)
        assert program is not None
        file.write(program.model_proto.SerializeToString())
    else:
        torch.onnx.export(form, (IMAGE,), file, dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()})
    np.testing.assert_allclose(found, form(IMAGE).detach().numpy(), atol=1e-5)


# --- batches ---


class Windows(nn.Module):
    """Sizes that are multiples of the batch, in views and in new tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.state, self.fc = nn.Conv2d(3, 6, 1), nn.GRUCell(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = self.embed(x).view(n, 6, 2, 8, 2, 8).permute(0, 2, 4, 3, 5, 1).reshape(n * 4, 64, 6)
        x = self.state(x.mean(1), x.new_ones(n * 4, 6))
        return self.fc(x.view(n, 4, 6).sum(1))


@pytest.mark.parametrize("traced_with", [1, 2])
def test_sizes_that_follow_the_batch_do(traced_with: int) -> None:
    torch.manual_seed(0)
    net = Windows().eval()
    graph = trace(net, IMAGE[:traced_with])
    form = graph_form(net, graph.capture, graph.capture.alive({}))
    assert form.any_batch
    assert form.note == ""
    for size in (1, 2, 5):
        x = torch.randn(size, 3, 16, 16)
        assert same(form(x), net(x))


def test_a_model_for_one_batch_size_says_so() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.view(2, 24))

    net = Fixed().eval()
    x = torch.randn(2, 3, 8)
    _, form = whole(net, x)
    assert not form.any_batch
    assert "batches" in form.note
    assert same(form(x), net(x))


def test_a_graph_without_sizes_is_not_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    graph = trace(net.eval(), IMAGE)
    monkeypatch.setattr(batch_module, "export", None)
    assert graph_form(net, graph.capture, graph.capture.alive({})).any_batch


# --- dropped modules ---


def test_a_dropped_block_passes_its_input_on_and_takes_its_weights_along() -> None:
    torch.manual_seed(0)
    net = CifarResNet20().eval()
    graph = trace(net, IMAGE)
    names = ["layer1.1", "layer1.2", "layer3.2"]
    form = graph_form(net, graph.capture, graph.capture.alive({}), names)
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(parent), leaf, nn.Identity())
    assert list(form.state_dict()) == list(net.state_dict())
    assert same(form(IMAGE), net(IMAGE))


def test_a_module_that_changes_the_shape_cannot_be_dropped() -> None:
    net = CifarResNet20().eval()
    graph = trace(net, IMAGE)
    with pytest.raises(ModelError, match=r"layer2\.0 cannot be dropped"):
        graph_form(net, graph.capture, graph.capture.alive({}), ["layer2.0"])
