"""Augmentation."""

from typing import Literal

import pytest
import torch

from pipeline.data.augment import augment, mirror_half, shift


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 64, size: int = 8) -> torch.Tensor:
    return torch.randint(1, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator(9))


def moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Move one image (C, H, W) the slow way."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y + down < height and 0 <= x + right < width:
                result[:, y, x] = image[:, y + down, x + right]
    return result


def test_a_shift_moves_whole_images_and_zeros_move_in() -> None:
    batch = images()
    result = shift(batch, 1, generator())
    offsets = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    seen = set()
    for before, after in zip(batch, result, strict=True):
        matches = [offset for offset in offsets if torch.equal(moved(before, *offset), after)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(offsets)


def test_about_half_of_the_images_are_mirrored_and_the_others_kept() -> None:
    batch = images(400)
    result = mirror_half(batch, generator())
    kept = [torch.equal(before, after) for before, after in zip(batch, result, strict=True)]
    mirrored = [torch.equal(before.flip(-1), after) for before, after in zip(batch, result, strict=True)]
    assert all(one != other for one, other in zip(kept, mirrored, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize("kind", ["none", "crop-flip", "shift"])
def test_the_generator_decides_and_the_batch_is_left_alone(
    kind: Literal["none", "crop-flip", "shift"],
) -> None:
    batch = images(size=32)
    before = batch.clone()
    first, again, other = (augment(kind, batch, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind == "none")
    assert torch.equal(batch, before)
    assert (first.shape, first.dtype) == (batch.shape, batch.dtype)


def test_floats_are_augmented_like_bytes() -> None:
    batch = images(size=32)
    as_bytes = augment("crop-flip", batch, generator())
    assert torch.equal(as_bytes.float(), augment("crop-flip", batch.float(), generator()))
