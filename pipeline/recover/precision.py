"""Number formats of training: bfloat16 where the processor computes in it, else float32."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.recipe import Precision

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")


def use_bf16(precision: Precision) -> bool:
    """Tell whether to train in bfloat16; "auto" does where this processor has instructions for it.

    Emulated bfloat16 is slower than float32, and an older torch that cannot say counts as having none.
    """
    if precision != "auto":
        return precision == "bf16"
    ask = getattr(torch.cpu, "get_capabilities", None)
    capabilities: dict[str, Any] = ask() if ask else {}
    return any(capabilities.get(name, False) for name in _INSTRUCTIONS)
