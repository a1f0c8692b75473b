"""What the loop's small networks learn: 10,000 images of CIFAR-10, or digits spoken by six people, as .npz files.

Digits are the Free Spoken Digit Dataset, 8 kHz, as one archive `fsdd.npz`: `audio` (int16, all recordings end to end),
`offset` (where each begins, and the end), `digit` and `index` (test: below 5, as its authors split it).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from pipeline.data.cifar10 import load
from pipeline.data.find import find
from pipeline.errors import DataError

TRAIN, TEST = 10_000, 2_000  # images
RATE = 8_000  # samples a second
WINDOW, HOP, FFT = 320, 160, 512  # 40 and 20 ms: 49 windows a second (Zhang et al. 2017, section 4)
MEL_BANDS, COEFFICIENTS = 40, 10
TEST_BELOW = 5
Floats = NDArray[np.float64]


def write_images(path: Path) -> None:
    """Write some of CIFAR-10's images: uint8, (N, 3, 32, 32).

    Raises:
        DataError: they are in no folder of PIPELINE_DATA.
    """
    folder = find("cifar-10-batches-bin", "data", DataError, beside=path.parent)
    (train, test), arrays = load(folder), {}
    for part, split, count in (("train", train, TRAIN), ("test", test, TEST)):
        arrays[f"x_{part}"] = split.inputs[:count].numpy()
        arrays[f"y_{part}"] = split.targets[:count].numpy()
    _save(path, **arrays)


def write_digits(path: Path) -> None:
    """Write the spoken digits as mel cepstra: float32, (N, 1, 49 windows, 10 coefficients), mean 0 and deviation 1.

    Raises:
        DataError: they are in no folder of PIPELINE_DATA.
    """
    with np.load(find("fsdd.npz", "data", DataError, beside=path.parent, inside="fsdd")) as held:
        audio, offset, digit, index = (held[name] for name in ("audio", "offset", "digit", "index"))
    cepstra = np.stack([_cepstra(audio[start:end]) for start, end in pairwise(offset)])
    train = index >= TEST_BELOW
    mean, deviation = cepstra[train].mean(axis=(0, 1)), cepstra[train].std(axis=(0, 1))
    inputs = ((cepstra - mean) / deviation).astype(np.float32)[:, None]
    labels = digit.astype(np.int64)
    _save(path, x_train=inputs[train], y_train=labels[train], x_test=inputs[~train], y_test=labels[~train])


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    with path.open("wb") as file:  # given a name, NumPy would add to it
        np.savez(file, **arrays)


def _cepstra(recording: NDArray[np.int16]) -> Floats:
    """Return the mel cepstrum of each window of one second, silence behind what is shorter: (windows, coefficients)."""
    second = np.zeros(RATE)
    second[: len(recording)] = recording[:RATE] / 2**15
    windows = np.lib.stride_tricks.sliding_window_view(second, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows, FFT)) ** 2
    found: Floats = dct(np.log(power @ _mel_filters().T + 1e-6), norm="ortho")[:, :COEFFICIENTS]
    return found


def _mel_filters() -> Floats:
    """Return triangles, evenly spaced in mel from 20 Hz on: (bands, frequencies)."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (20, RATE / 2))
    edges = 700 * (10 ** (np.linspace(low, high, MEL_BANDS + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(FFT, 1 / RATE)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle)), 0, None)
