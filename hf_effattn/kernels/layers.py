"""The layer that the ``kernels`` library puts in the place of `hf_effattn.models.layer_kernelize.LinearAttention`."""

from typing import Any

import torch
from torch import nn

from .linear import cpu_linear_attention


class LinearAttention(nn.Module):
    """Linear attention on the compiled CPU kernels; the arguments are those of the layer that it replaces."""

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_mask: torch.Tensor | None,
        causal: bool,
        normalize: bool,
        scale: float | torch.Tensor | None,
        eps: float,
        initial_state: torch.Tensor | None,
        dropout_p: float,
        feature_map: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `hf_effattn.models.ops_linear.linear_attention`."""
        with torch.autocast("cpu", enabled=False):
            return cpu_linear_attention(
                query,
                key,
                value,
                key_mask=key_mask,
                causal=causal,
                normalize=normalize,
                scale=scale,
                eps=eps,
                initial_state=initial_state,
                dropout_p=dropout_p,
                feature_map=feature_map,
            )
