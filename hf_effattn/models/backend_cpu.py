"""The compiled CPU kernels, where the hf_effattn package is installed; a checkpoint alone runs without them."""

from functools import cache

import torch

from .base_call import LinearAttentionCall
from .base_transforms import constant_in_graphs


#: The version of what this file calls in `hf_effattn.kernels`, which states its own.
INTERFACE = 2

#: The dtypes that the kernels take.
CPU_DTYPES = (torch.float32, torch.bfloat16)


@constant_in_graphs
def missing_kernels() -> str | None:
    """What is missing to run the compiled kernels, or None. The first call compiles them, in seconds."""
    return _missing_kernels()


@cache
def _missing_kernels() -> str | None:
    try:
        from hf_effattn import kernels
    except ImportError:
        return "the compiled kernels are not part of a checkpoint; pip install hf_effattn"
    if kernels.INTERFACE != INTERFACE:
        return f"the installed hf_effattn has interface {kernels.INTERFACE}, this checkpoint's code needs {INTERFACE}"
    return kernels.build_error()


def cpu_linear_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: LinearAttentionCall
) -> tuple[torch.Tensor, torch.Tensor]:
    """`hf_effattn.kernels.linear.cpu_linear_attention`."""
    try:
        from hf_effattn.kernels import linear
    except ImportError as error:
        raise RuntimeError("the compiled kernels need the hf_effattn package") from error
    # mypy takes the attributes of a protocol for writable, and those of a frozen dataclass are not.
    return linear.cpu_linear_attention(query, key, value, call)  # type: ignore[arg-type]
