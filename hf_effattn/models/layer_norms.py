"""Norms and dropout, as the config names them."""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_effattn import EffAttnConfig


class ScaleNorm(nn.Module):
    """``g * x / rms(x)`` with one learned gain for all channels (the form of Luna and Mega); statistics in float32."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return nn.functional.rms_norm(hidden_states, hidden_states.shape[-1:], eps=self.eps) * self.weight

    def start_weights(self, config: EffAttnConfig) -> None:
        """Set the gain to one."""
        init.ones_(self.weight)


def make_norm(config: EffAttnConfig) -> nn.Module:
    """The norm that `config.norm_type` names."""
    if config.norm_type == "layer_norm":
        return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    if config.norm_type == "rms_norm":
        return nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
    return ScaleNorm(config.layer_norm_eps)


def make_dropout(config: EffAttnConfig, field: str) -> nn.Dropout:
    """Dropout with the probability in `field` of the config, or `hidden_dropout_prob` where the field is None."""
    probability = getattr(config, field)
    return nn.Dropout(config.hidden_dropout_prob if probability is None else probability)
