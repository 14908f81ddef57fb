"""Linear attention as a module, for libraries that replace the forward of modules."""

from collections.abc import Callable

import torch
from torch import nn

from .base_call import LinearAttentionCall
from .configuration_effattn import EffAttnConfig
from .ops_linear import run_linear_attention


try:
    from kernels import use_kernel_forward_from_hub
except ImportError:

    def use_kernel_forward_from_hub(layer_name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
        """Leave the class as it is, where the ``kernels`` library is not installed."""
        return lambda layer: layer


@use_kernel_forward_from_hub("LinearAttention")
class LinearAttention(nn.Module):
    """`linear_attention`, or for one token after others `linear_attention_step`; no parameters of its own.

    ``kernels.kernelize`` replaces the forward of this class by that of a layer of the same name, from the Hub or from
    the folder that `hf_effattn.kernels.repository.write_repository` writes.

    Args:
        config: names the backend; it is read at every call, since a user may change it later.
    """

    def __init__(self, config: EffAttnConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: LinearAttentionCall
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return run_linear_attention(query, key, value, call, self.config.resolved_backend)
