"""What the attention layers of all families share: projections, heads, and the limit on attention maps."""

from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from transformers.cache_utils import Cache

from .base_sequence import SequenceInfo
from .cache_states import recall_columns
from .configuration_effattn import EffAttnConfig
from .layer_filters import KeyValueFilter


#: The longest input for which `output_attentions=True` builds a square map: at 4,096 positions one head of one
#: sequence takes 64 MiB in float32, and every layer keeps its own.
MAX_MAP_LENGTH = 4096


class SelfAttention(Protocol):
    """The attention of an `EffAttnBlock`: a module of a family, made from its config and the index of the layer."""

    def __init__(self, config: Any, layer_idx: int) -> None: ...

    def __call__(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output ``[batch, length, hidden]``, and the map ``[batch, heads, length, keys]`` or None.

        Args:
            hidden_states: ``[batch, length, hidden]``.
            sequence: mask and counts of real tokens.
            cache: a decoder's cache, from which the layer goes on, and to which it writes.
            output_attentions: whether to build the map.
        """
        ...


class ProjectedAttention(nn.Module):
    """Projections into heads and out of them, and a filter over keys and values; a family adds `forward`.

    Args:
        config: sizes, and what else the family reads.
        layer_idx: the layer's place, under which it keeps its state in a cache.
        output_projection: whether a linear map mixes the heads at the end.
        key_value_filter: a filter over keys and values, or None. It is causal if the config is a decoder's.
    """

    def __init__(
        self,
        config: EffAttnConfig,
        layer_idx: int,
        output_projection: bool = True,
        key_value_filter: KeyValueFilter | None = None,
    ):
        super().__init__()
        self.layer_idx = layer_idx
        self.is_causal = config.is_decoder
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size) if output_projection else None
        self.filter = key_value_filter

    def heads(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value of ``[batch, length, hidden]``, each ``[batch, heads, length, head_dim]``."""
        layers = (self.query, self.key, self.value)
        query, key, value = (split_heads(layer(hidden_states), self.num_heads) for layer in layers)
        return query, key, value

    def project(
        self, hidden_states: torch.Tensor, sequence: SequenceInfo, cache: Cache | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`heads` with keys and values filtered; with a cache, the filter goes on from the tokens that it kept."""
        query, key, value = self.heads(hidden_states)
        if self.filter is not None:
            recall = None
            if cache is not None and self.filter.kernel_size > 1:
                recall = partial(recall_columns, cache, self.layer_idx, self.filter.kernel_size - 1)
            key, value, _ = self.filter(key, value, sequence.key_mask, recall)
        return query, key, value

    def merge(self, attended: torch.Tensor) -> torch.Tensor:
        """The layer's output ``[batch, length, hidden]`` from ``[batch, heads, length, head_dim]``."""
        joined = join_heads(attended)
        if self.output is None:
            return joined
        mixed: torch.Tensor = self.output(joined)
        return mixed


def split_heads(hidden_states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """``[batch, length, hidden]`` to ``[batch, heads, length, head_dim]``, as a view."""
    heads: torch.Tensor = hidden_states.unflatten(-1, (num_heads, -1))
    return heads.transpose(1, 2)


def join_heads(attended: torch.Tensor) -> torch.Tensor:
    """``[batch, heads, length, head_dim]`` to ``[batch, length, hidden]``."""
    return attended.transpose(1, 2).flatten(-2)


def refuse_long_map(queries: int, keys: int, has_past: bool = False) -> None:
    """Raise ValueError if the attention map cannot be built: the input is too long, or its keys are in a state."""
    if queries * keys > MAX_MAP_LENGTH**2:
        raise ValueError(
            f"output_attentions=True would build {queries} x {keys} maps; it is limited to {MAX_MAP_LENGTH} x "
            f"{MAX_MAP_LENGTH}. Shorten the input, or leave output_attentions off."
        )
    if has_past:
        raise ValueError(
            "output_attentions=True needs the keys of all tokens, and the cache of linear attention keeps only their "
            "sum. Pass the whole sequence with use_cache=False."
        )
