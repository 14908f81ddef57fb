"""The layer that the ``kernels`` library puts in the place of `hf_effattn.models.layer_kernelize.LinearAttention`."""

import torch
from torch import nn

from .linear import Call, cpu_linear_attention


class LinearAttention(nn.Module):
    """Linear attention on the compiled CPU kernels; the arguments are those of the layer that it replaces.

    The ``kernels`` library finds it by its name, which therefore is that of the layer that it replaces.
    """

    has_backward = True
    can_torch_compile = True

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: Call
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `hf_effattn.models.ops_linear.linear_attention`."""
        with torch.autocast("cpu", enabled=False):
            return cpu_linear_attention(query, key, value, call)
