"""Which backends the operators of the library have."""

import torch

from .auto import register_models
from .models import backend_table


def backends(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, dict[str, str]]:
    """For every operator of the library and each of its backends: whether it runs on `device` in `dtype`, or why not.

    Compiles the CPU kernels if they could run and are not there yet.

    Returns:
        Operator to backend to ``"chosen"``, ``"available"``, or the reason why it cannot serve; the fastest first.
    """
    # An operator enters its backends when it is imported, which the models do.
    register_models()
    return backend_table.backends(device, dtype)
