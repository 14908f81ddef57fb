"""The ``triton`` backend of linear attention, imported when it is first called; importing it takes a while."""

import os

import torch

from .base_call import LinearAttentionCall
from .base_transforms import constant_in_graphs


#: ROCm devices are ``"cuda"`` to torch. Triton's interpreter, which its import switches on, runs on the CPU.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
DEVICE_TYPES = ("cuda", "cpu") if INTERPRETED else ("cuda",)


@constant_in_graphs
def missing_triton() -> str | None:
    """What is missing to run the Triton kernels, or None."""
    try:
        import triton
    except ImportError:
        return "Triton is not installed; pip install triton"
    if not hasattr(triton, "knobs"):
        return f"Triton {triton.__version__} is too old; pip install --upgrade 'triton>=3.4'"
    return None


def triton_linear_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: LinearAttentionCall
) -> tuple[torch.Tensor, torch.Tensor]:
    """`triton_autograd.attend`."""
    from .triton_autograd import attend

    return attend(query, key, value, call)


def triton_linear_attention_step(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: LinearAttentionCall
) -> tuple[torch.Tensor, torch.Tensor]:
    """`triton_autograd.attend_step`."""
    from .triton_autograd import attend_step

    return attend_step(query, key, value, call)
