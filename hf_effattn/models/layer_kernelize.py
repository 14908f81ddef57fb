"""Linear attention as a module, for libraries that put other kernels in the place of a module's forward."""

import torch
from torch import nn

from .base_map_layer import MapLayer
from .configuration_effattn import EffAttnConfig
from .ops_linear import linear_attention, linear_attention_step


try:
    from kernels import use_kernel_forward_from_hub
except ImportError:

    def use_kernel_forward_from_hub(layer_name: str):
        """Leave the class as it is, where the ``kernels`` library is not installed."""
        return lambda layer: layer


@use_kernel_forward_from_hub("LinearAttention")
class LinearAttention(nn.Module):
    """`linear_attention`, or for one token after others `linear_attention_step`; no parameters of its own.

    ``kernels.kernelize`` replaces the forward of this class by that of a layer of the same name, from the Hub or from
    the folder that `hf_effattn.kernels.repository.write_repository` writes.

    Args:
        config: says which backend, whenever it runs: a user may change that later.
    """

    def __init__(self, config: EffAttnConfig):
        super().__init__()
        self.config = config

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
        feature_map: MapLayer | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        backend = self.config.resolved_backend
        if causal and initial_state is not None and query.shape[2] == 1:
            return linear_attention_step(
                query,
                key,
                value,
                initial_state,
                key_mask=key_mask,
                normalize=normalize,
                scale=scale,
                eps=eps,
                feature_map=feature_map,
                backend=backend,
            )
        return linear_attention(
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
            backend=backend,
        )
