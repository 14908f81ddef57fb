"""The compiled CPU kernels, where the hf_effattn package is installed; a checkpoint alone does without them."""

from functools import cache
from typing import Any

import torch


#: What the code beside this file calls; `hf_effattn.kernels` counts its changes.
INTERFACE = 1


@torch.compiler.assume_constant_result
def cpu_refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the compiled kernels cannot serve, or None. The first call that gets as far compiles them, in seconds."""
    return "it runs on the CPU" if device.type != "cpu" else _refusal_of_dtype(dtype)


@cache
def _refusal_of_dtype(dtype: torch.dtype) -> str | None:
    try:
        from hf_effattn import kernels
    except ImportError:
        return "the compiled kernels are not part of a checkpoint; pip install hf_effattn"
    if kernels.INTERFACE != INTERFACE:
        return f"the installed hf_effattn has interface {kernels.INTERFACE}, this checkpoint's code needs {INTERFACE}"
    return kernels.refusal(dtype)


def cpu_linear_attention(*tensors: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`hf_effattn.kernels.linear.cpu_linear_attention`."""
    try:
        from hf_effattn.kernels import linear
    except ImportError as error:
        raise RuntimeError("the compiled kernels need the hf_effattn package") from error
    return linear.cpu_linear_attention(*tensors, **options)
