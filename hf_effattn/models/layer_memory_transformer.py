"""Attention of the memory transformer: over the sequence, over the keys and values before it, and over a memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers.cache_utils import Cache

from .base_key_values import KeyValues, concatenate
from .configuration_memory_transformer import MemoryTransformerConfig
from .layer_attention import ProjectedAttention, refuse_long_map
from .layer_filters import make_memory_filter
from .ops_attention_maps import softmax_attention_map
from .ops_softmax import softmax_attention


class AttentionOutput(NamedTuple):
    """What attention gives for one sequence.

    Attributes:
        states: ``[B, N, hidden]``.
        key_values: the sequence's own keys and values, those in a cache included.
        weights: ``[B, H, N, keys]`` if asked for.
    """

    states: torch.Tensor
    key_values: KeyValues
    weights: torch.Tensor | None


class MemoryAttention(ProjectedAttention):
    """Multi-head softmax attention of a sequence over itself, over keys and values before it, and over a memory.

    The filter acts on the keys and values of tokens where memory tokens read them.
    """

    def __init__(self, config: MemoryTransformerConfig, layer_idx: int):
        memory_filter = make_memory_filter(config, config.num_attention_heads)
        super().__init__(config, layer_idx, key_value_filter=memory_filter)
        self.config = config
        self.dropout_p = float(config.attention_probs_dropout_prob)

    def filtered(self, tokens: KeyValues) -> KeyValues:
        """The keys and values of tokens, as a memory reads them."""
        return tokens if self.filter is None else KeyValues(*self.filter(tokens.key, tokens.value, tokens.mask))

    def forward(
        self,
        hidden_states: torch.Tensor,
        before: Sequence[KeyValues] = (),
        mask: torch.Tensor | None = None,
        causal: bool = False,
        memory: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[AttentionOutput, AttentionOutput | None]:
        """The output for the tokens, and with `memory` that for the memory tokens.

        Args:
            hidden_states: ``[B, N, hidden]``.
            before: what tokens read beside each other, in this order in front of them.
            mask: ``[B, N]`` bool, with a cache ``[B, P + N]``, True for a real token.
            causal: whether a token reads no token behind it.
            memory: ``[B, m, hidden]``: memory tokens that the tokens read, and that read each other and the filtered
                tokens.
            cache: keeps the tokens' keys and values.
            output_attentions: whether to build the weights, ``[B, H, N, keys]``.
        """
        query, key, value = self.heads(hidden_states)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        own = KeyValues(key, value, mask)
        if memory is None:
            return self._attend(query, [*before, own], own, causal, output_attentions), None
        memory_query, memory_key, memory_value = self.heads(memory)
        cells = KeyValues(memory_key, memory_value)
        of_memory = self._attend(memory_query, [cells, self.filtered(own)], cells, False, output_attentions)
        return self._attend(query, [*before, cells, own], own, causal, output_attentions), of_memory

    def _attend(
        self, query: torch.Tensor, read: Sequence[KeyValues], own: KeyValues, causal: bool, output_attentions: bool
    ) -> AttentionOutput:
        key, value, mask = concatenate(read)
        backend = self.config.resolved_backend
        dropout_p = self.dropout_p if self.training else 0.0
        attended = softmax_attention(
            query, key, value, key_mask=mask, causal=causal, dropout_p=dropout_p, backend=backend
        )
        weights = None
        if output_attentions:
            refuse_long_map(query.shape[2], key.shape[2])
            weights = softmax_attention_map(query, key, key_mask=mask, causal=causal).to(query.dtype)
        return AttentionOutput(self.merge(attended), own, weights)
