"""Variants: the ways of running one model that a deploy may choose between, by measuring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

RuntimeName = Literal["onnxruntime", "tflite"]
Storage = Literal["fp32", "fp16"]

MOST_THREADS = 256
SPELLING = '"RUNTIME", "RUNTIME:THREADS" or "RUNTIME:THREADS:fp16", such as "tflite:4"'


@dataclass(frozen=True)
class Variant:
    """A runtime, its threads, and how the weights are stored in the model's file.

    With `storage` "fp16" the file holds weights in half precision; the device still computes in single precision.
    """

    runtime: RuntimeName
    threads: int = 1
    storage: Storage = "fp32"

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.runtime}, {threads}" + (", fp16 weights" if self.storage == "fp16" else "")

    @property
    def slug(self) -> str:
        """A name for files."""
        return f"{self.runtime}-{self.threads}" + ("-fp16" if self.storage == "fp16" else "")


def parse_variant(text: str) -> Variant:
    """Read "tflite", "onnxruntime:4" or "tflite:1:fp16".

    Raises:
        ValueError: it is none of these.
    """
    name, *more = (part.strip() for part in text.split(":"))
    runtime = next((known for known in get_args(RuntimeName) if known == name), None)
    threads = int(more[0]) if more and more[0].isascii() and more[0].isdecimal() else 1 if not more else 0
    storage = next((known for known in get_args(Storage) if known == (more[1:] or ["fp32"])[0]), None)
    if runtime is None or storage is None or not 1 <= threads <= MOST_THREADS or len(more) > 2:
        raise ValueError(text)
    return Variant(runtime, threads, storage)
