"""What the memory transformer is built of: attention over several stretches of keys, and its block."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache

from .configuration_memory_transformer import MemoryTransformerConfig
from .layer_attention import ProjectedAttention, refuse_long_map
from .layer_filters import make_memory_filter
from .ops_attention_maps import softmax_attention_map
from .ops_softmax import softmax_attention
from .skeleton_model import EffAttnBlock


@dataclass(frozen=True)
class Stretch:
    """Keys and values that a query may read: ``[B, H, M, D]`` each, and ``[B, M]`` bool or None if all are real."""

    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None = None

    def for_rows(self, batch: int) -> "Stretch":
        """The same for every row of a batch, as a view; for a stretch of one row that has no mask."""
        return Stretch(self.key.expand(batch, -1, -1, -1), self.value.expand(batch, -1, -1, -1))


@dataclass(frozen=True)
class Attended:
    """What a layer makes of one sequence: new states, its own keys and values, and its weights if asked for."""

    states: torch.Tensor
    stretch: Stretch
    weights: torch.Tensor | None


class MemoryAttention(ProjectedAttention):
    """Multi-head softmax attention of a sequence over itself, over what is before it, and over a memory."""

    def __init__(self, config: MemoryTransformerConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.config = config
        self.dropout_p = float(config.attention_probs_dropout_prob)
        self.filter = make_memory_filter(config, self.num_heads)

    def filtered(self, stretch: Stretch) -> Stretch:
        """What a memory reads of the keys and values of tokens."""
        return stretch if self.filter is None else Stretch(*self.filter(stretch.key, stretch.value, stretch.mask))

    def forward(
        self,
        hidden_states: torch.Tensor,
        before: list[Stretch],
        mask: torch.Tensor | None = None,
        causal: bool = False,
        memory: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Attended, Attended | None]:
        """What the tokens read, and with `memory` what the memory tokens read.

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
        own = Stretch(key, value, mask)
        from_memory = None
        if memory is not None:
            memory_query, memory_key, memory_value = self.heads(memory)
            cells = Stretch(memory_key, memory_value)
            before = [*before, cells]
            from_memory = self._attend(memory_query, [cells, self.filtered(own)], cells, False, output_attentions)
        return self._attend(query, [*before, own], own, causal, output_attentions), from_memory

    def _attend(
        self, query: torch.Tensor, read: list[Stretch], own: Stretch, causal: bool, output_attentions: bool
    ) -> Attended:
        key, value, mask = _joined(read)
        backend = self.config.resolved_backend
        dropout_p = self.dropout_p if self.training else 0.0
        attended = softmax_attention(
            query, key, value, key_mask=mask, causal=causal, dropout_p=dropout_p, backend=backend
        )
        weights = None
        if output_attentions:
            refuse_long_map(query.shape[2], key.shape[2])
            weights = softmax_attention_map(query, key, key_mask=mask, causal=causal).to(query.dtype)
        return Attended(self.merge(attended), own, weights)


class MemoryBlock(EffAttnBlock):
    """An encoder block over tokens, and over memory tokens beside them if there are any."""

    attention: MemoryAttention

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        causal: bool = False,
        output_attentions: bool = False,
        *before: torch.Tensor | None,
        cache: Cache | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """See `MemoryAttention.forward`; `before` is flat: key, value and mask of one stretch after the other.

        Tensors go in and out one by one, since reentrant gradient checkpointing finds them nowhere else.

        Returns:
            Of the tokens the states after the block, key, value and weights; of the memory its states and weights.
        """
        tokens, cells = hidden_states, memory
        if self.pre_norm:
            tokens = self.attention_norm(hidden_states)
            cells = None if memory is None else self.attention_norm(memory)
        stretches = [Stretch(*before[start : start + 3]) for start in range(0, len(before), 3)]  # type: ignore[arg-type]
        read, written = self.attention(tokens, stretches, mask, causal, cells, cache, output_attentions)
        states = self.finish(hidden_states, read.states)
        of_tokens = (states, read.stretch.key, read.stretch.value, read.weights)
        if memory is None:
            return *of_tokens, None, None
        return *of_tokens, self.finish(memory, written.states), written.weights


def _joined(parts: list[Stretch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Several stretches as one."""
    key = torch.cat([part.key for part in parts], dim=2)
    value = torch.cat([part.value for part in parts], dim=2)
    if all(part.mask is None for part in parts):
        return key, value, None
    masks = [key.new_ones(part.key.shape[0], part.key.shape[2], dtype=torch.bool) for part in parts]
    masks = [ones if part.mask is None else part.mask for ones, part in zip(masks, parts, strict=True)]
    return key, value, torch.cat(masks, dim=1)
