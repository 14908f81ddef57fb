"""From hidden states to the logits of a sequence: pooling, what is read of a pair, and the classification head."""

from itertools import pairwise

import torch
from torch import nn
from transformers.activations import ACT2FN

from .base_operators import accumulation_dtype
from .base_sequence import real_tokens
from .configuration_effattn import EffAttnConfig
from .layer_norms import make_dropout


class ClassificationHead(nn.Module):
    """Dropout, hidden layers of the widths `EffAttnConfig.classifier_widths`, and the logits."""

    def __init__(self, config: EffAttnConfig, num_labels: int):
        super().__init__()
        vectors = {None: 1, "concat": 2, "interaction": 4}[config.pair_features]
        widths = [vectors * config.hidden_size, *config.classifier_widths]
        self.dropout = make_dropout(config, "classifier_dropout")
        self.activation = ACT2FN[config.classifier_act or config.hidden_act]
        self.hidden = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise(widths))
        self.logits = nn.Linear(widths[-1], num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        pooled = self.dropout(pooled)
        for layer in self.hidden:
            pooled = self.activation(layer(pooled))
        logits: torch.Tensor = self.logits(pooled)
        return logits


def pool(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str, memory: torch.Tensor | None = None
) -> torch.Tensor:
    """One vector per sequence, ``[batch, hidden]``: its first real token, its last, their mean, or the memory's mean.

    With a cache the mask may begin with that of earlier calls, whose tokens are not pooled. A row without real tokens
    is read at its first position, or for the mean gives zeros.
    """
    if pooling == "memory":
        if memory is None:
            raise ValueError('pooling="memory" needs use_cache=False: with a cache the last segment writes no memory')
        return memory.mean(1)
    batch, length = hidden_states.shape[:2]
    if attention_mask is None:
        attention_mask = torch.ones(batch, length, device=hidden_states.device)
    real = real_tokens(attention_mask)[:, -length:]
    if pooling == "mean":
        # A sum over a long input leaves the range of half precision.
        total = hidden_states.masked_fill(~real[..., None], 0.0).sum(1, dtype=accumulation_dtype(hidden_states.dtype))
        return (total / real.sum(1, keepdim=True).clamp(min=1)).to(hidden_states.dtype)
    # The largest score marks the token to read; argmax takes the first of equals.
    score = real.int() if pooling == "cls" else real * torch.arange(length, device=real.device)
    index = score.argmax(1)
    return hidden_states[torch.arange(batch, device=real.device), index]


def combine_pair(first: torch.Tensor, second: torch.Tensor, pair_features: str | None) -> torch.Tensor:
    """The features of a pair of pooled vectors, see `EffAttnConfig.pair_features`."""
    features = [first, second]
    if pair_features == "interaction":
        features += [first * second, first - second]
    return torch.cat(features, dim=-1)
