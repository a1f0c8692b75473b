"""Preprocessing."""

import torch

from pipeline.data.preprocess import Preprocess, apply


def test_bytes_are_scaled_then_normalised_by_channel() -> None:
    raw = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    result = apply(Preprocess(1 / 255, (0.5, 0.25), (0.5, 0.125)), raw)
    assert result.dtype == torch.float32
    assert torch.allclose(result.flatten(), torch.tensor([-1.0, 6.0]))


def test_one_value_serves_all_channels() -> None:
    result = apply(Preprocess(1.0, (1.0,), (2.0,)), torch.full((2, 3, 4, 4), 5.0))
    assert torch.equal(result, torch.full((2, 3, 4, 4), 2.0))
