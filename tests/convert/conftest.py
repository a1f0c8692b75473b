"""Fixtures of the conversion tests."""

from __future__ import annotations

import pytest
import torch
from convert_nets import NETS, make
from torch import Tensor, nn


@pytest.fixture(params=sorted(NETS))
def net(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the networks in turn."""
    return make(request.param)


@pytest.fixture
def option_a() -> nn.Module:
    """The residual net with the option-A shortcut."""
    return make("option-a")


@pytest.fixture
def images() -> Tensor:
    """Twenty inputs, shape (20, 3, 16, 16)."""
    return torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(2))
