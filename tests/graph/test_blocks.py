from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import Block, trace
from pipeline.model_source import make_model

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGE = torch.zeros(1, 3, 8, 8)


def conv_bn(inner: int, outer: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, padding=kernel // 2, groups=groups), nn.BatchNorm2d(outer)
    )


def branch() -> nn.Sequential:
    return nn.Sequential(conv_bn(8, 6), nn.ReLU(), conv_bn(6, 8))


class Residual(nn.Module):
    """`end(branch(x) + skip(x))`."""

    def __init__(
        self,
        skip: nn.Module | None = None,
        inside: nn.Module | None = None,
        end: Callable[[Tensor], Tensor] = functional.relu,
    ) -> None:
        super().__init__()
        self.inside = inside or branch()
        self.skip = skip or nn.Identity()
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.inside(x) + self.skip(x))


class Call(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.head = conv_bn(3, 8), nn.Sequential(*blocks), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(functional.relu(self.stem(x))))


def lively(model: nn.Module) -> nn.Module:
    """Give norms statistics that no layer can be mistaken for the identity with."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith(("bias", "running_mean")):
            nn.init.normal_(tensor, generator=generator)
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2.0, generator=generator)
    return model


def blocks(model: nn.Module) -> list[str]:
    return [block.name for block in trace(model, IMAGE).blocks]


def test_resnet20_has_the_seven_blocks_with_an_identity_skip() -> None:
    model = make_model(f"{EXAMPLES / 'cifar_resnet.py'}:resnet20", {})
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    assert graph.blocks == tuple(
        Block(name, f"{name}.conv1", (f"{name}.conv1", f"{name}.conv2"), (f"{name}.conv1",))
        for name in ("layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2")
    )


@pytest.mark.parametrize("prepare", [lively, lambda model: model], ids=["trained", "fresh"])
@pytest.mark.parametrize(
    ("block", "droppable"),
    [
        (Residual, True),
        (lambda: Residual(end=lambda x: x), True),
        (lambda: Residual(inside=nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), branch())), True),
        (lambda: Residual(skip=conv_bn(8, 8, 1)), False),
        (lambda: Residual(skip=nn.BatchNorm2d(8)), False),
        (lambda: Residual(skip=nn.BatchNorm2d(8, affine=False)), False),
        (lambda: Residual(skip=Call(lambda x: 0.5 * x)), False),
        (lambda: Residual(skip=Call(lambda x: x.flip(3))), False),
        (lambda: Residual(end=functional.gelu), False),
        (lambda: Residual(end=lambda x: functional.relu(x - 0.1)), False),
        (branch, False),
    ],
    ids=[
        "plain",
        "without a last activation",
        "pre-activated",
        "projection",
        "norm",
        "bare norm",
        "scaled",
        "mirrored",
        "gelu at the end",
        "shifted",
        "no skip",
    ],
)
def test_only_what_gives_its_input_back_without_its_branch_is_a_block(
    block: Callable[[], nn.Module], droppable: bool, prepare: Callable[[nn.Module], nn.Module]
) -> None:
    assert blocks(prepare(Net(Residual(), block()))) == (["body.0", "body.1"] if droppable else ["body.0"])


def test_a_plain_stack_has_no_blocks() -> None:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())]
    graph = trace(nn.Sequential(*layers, nn.Conv2d(8, 4, 1)), IMAGE)
    assert graph.groups
    assert graph.blocks == ()


def test_an_inverted_residual_is_one_block_with_all_its_layers() -> None:
    inside = nn.Sequential(conv_bn(8, 24, 1), nn.ReLU6(), conv_bn(24, 24, groups=24), conv_bn(24, 8, 1))
    graph = trace(Net(Residual(inside=inside, end=lambda x: x), Residual()), IMAGE)
    block = graph.blocks[0]
    assert block.name == "body.0"
    assert block.layers == ("body.0.inside.0.0", "body.0.inside.2.0", "body.0.inside.3.0")
    assert [layer.name for layer in graph.layers if layer.only_with == block.group] == list(block.layers)


def test_a_depthwise_layer_on_the_stream_goes_with_its_block() -> None:
    inside = nn.Sequential(conv_bn(8, 8, groups=8), conv_bn(8, 24, 1), nn.GELU(), conv_bn(24, 8, 1))
    block, _ = trace(Net(Residual(inside=inside), Residual()), IMAGE).blocks
    assert block.layers == ("body.0.inside.0.0", "body.0.inside.1.0", "body.0.inside.3.0")


def test_of_nested_modules_the_outermost_is_the_block() -> None:
    assert blocks(Net(nn.Sequential(nn.Sequential(Residual())), Residual())) == ["body.0", "body.1"]


def test_a_block_with_two_groups_inside_is_dropped_by_name_not_by_a_width() -> None:
    inside = nn.Sequential(conv_bn(8, 6), nn.ReLU(), conv_bn(6, 5), nn.ReLU(), conv_bn(5, 8))
    first, second = trace(Net(Residual(inside=inside), Residual()), IMAGE).blocks
    assert (first.name, first.group, first.groups) == (
        "body.0",
        None,
        ("body.0.inside.0.0", "body.0.inside.2.0"),
    )
    assert second.group == "body.1.inside.0.0"


def test_a_module_that_is_called_twice_is_no_block() -> None:
    twice = Residual()

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.twice, self.once, self.head = conv_bn(3, 8), twice, Residual(), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.once(self.twice(self.twice(functional.relu(self.stem(x))))))

    assert blocks(Twice()) == ["once"]


def test_a_module_with_two_names_or_shared_weights_is_no_block() -> None:
    model = Net(Residual(), Residual(), Residual(), Residual())
    model.alias = model.body[0]
    model.body[1].inside[0][0].weight = model.body[2].inside[0][0].weight
    assert blocks(model) == ["body.3"]


def test_a_block_that_the_models_code_looks_into_can_only_go_from_the_graph() -> None:
    class Looking(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.body[0].inside[0][1].eps

    graph = trace(Looking(Residual(), Residual()), IMAGE)
    assert graph.plan({}, drop=["body.0"]).form == "graph"
    assert graph.plan({}, drop=["body.1"]).form == "module"


def test_the_model_is_left_as_it_was() -> None:
    model = Net(Residual(), Residual()).train()
    before, modules = copy.deepcopy(model.state_dict()), list(model.named_modules())
    graph = trace(model, IMAGE)
    assert graph.blocks
    assert list(model.named_modules()) == modules
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(
        not module._forward_hooks and not module._forward_pre_hooks for module in graph.model.modules()
    )
    assert list(graph.model.state_dict()) == list(before)
