"""Compiled CPU kernels of linear attention, built by the system's compiler when they are first asked for.

This package is not part of a checkpoint. Checkpoints find it where hf_effattn is installed, and run in plain torch
where it is not; see `hf_effattn.models.backend_table`.
"""

import logging
from functools import cache

import torch


logger = logging.getLogger(__name__)

#: Raised when the arguments of `cpu_linear_attention` change. The code of a checkpoint asks for the one that it was
#: written for.
INTERFACE = 1


@torch.compiler.assume_constant_result
def refusal(dtype: torch.dtype) -> str | None:
    """Why the kernels cannot serve tensors of `dtype` on the CPU, or None. Builds them if need be."""
    if dtype not in (torch.float32, torch.bfloat16):
        return f"the kernels take float32 and bfloat16, not {dtype}"
    return _build_refusal()


@cache
def _build_refusal() -> str | None:
    from .build import BuildError
    from .library import library

    try:
        library()
    except BuildError as error:
        logger.warning("linear attention runs in plain torch, more slowly than it could: %s", error)
        return str(error)
    return None
