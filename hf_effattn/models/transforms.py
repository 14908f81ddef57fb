"""Which of torch's function transforms a call runs under: they can only take plain tensor operations apart."""

import torch
from torch.autograd import forward_ad


def transform_refusal() -> str | None:
    """Why an operator that torch cannot look into would be left out of a derivative here, or None."""
    if torch._C._are_functorch_transforms_active():
        return "torch.func's transforms (grad, vmap, jvp, ...) cannot look into compiled kernels"
    if forward_ad._current_level >= 0:
        return "compiled kernels have no forward-mode derivative"
    return None


def values_are_hidden() -> bool:
    """Whether no branch may depend on the values of a tensor: in a graph, and under torch.func's transforms."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
