"""Linear attention on transformers' own cache: one state and one token count per layer, whatever the context.

The state of `ops_linear` is the layer's recurrent state. The next token needs the number of real tokens so far, for
its position and its ``1 / sqrt(t)``; this number is a convolution state of width one, the last column of the sequence
of counts. It has to be a convolution state: transformers 5.24 records `has_previous_state` and the device of a layer
only when one is written, and reads both in `get_recurrent_state` and while it reorders beams. `base_cache_slots` lists
which state holds what.
"""

import torch
from transformers.cache_utils import Cache, LinearAttentionCacheLayerMixin

from .base_cache_slots import ConvState
from .base_compat import get_conv_state, get_recurrent_state


def check_recurrent_cache(cache: Cache, layer_types: list[str]) -> None:
    """Raise ValueError unless `cache` can keep states for each of the model's layers."""
    keep_states = [isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers]
    if len(keep_states) != len(layer_types) or not all(keep_states):
        raise ValueError(
            f"the cache must hold the layers {layer_types}, got {cache}. "
            "Build it with transformers.DynamicCache(config=model.config)."
        )


def cached_token_count(cache: Cache | None) -> torch.Tensor | None:
    """How many real tokens every row has seen, ``[B, 1]`` int64, or None before the first one."""
    count = None if cache is None else get_conv_state(cache, 0, ConvState.TOKEN_COUNT)
    return None if count is None else count[:, :, 0]


def unseen_length(seen: torch.Tensor, attention_mask: torch.Tensor) -> int:
    """How many columns at the end of a batch of whole sequences a cache has not seen.

    Args:
        seen: `cached_token_count`.
        attention_mask: ``[B, N]`` of the whole sequences, padded on the left.

    Raises:
        ValueError: there are none, rows differ in their number, or padding is among them.
    """
    unseen = attention_mask.ne(0).sum(-1, keepdim=True) - seen
    length = int(unseen[0])
    if length < 1 or not bool((unseen == length).all() & attention_mask[:, -length:].ne(0).all()):
        raise ValueError(
            f"of rows of {attention_mask.ne(0).sum(-1).tolist()} tokens the cache has seen {seen.flatten().tolist()}, "
            "which leaves no end of one length without padding: pass the whole sequences, or new tokens alone with an "
            "attention_mask of the whole"
        )
    return length


def load_state(cache: Cache | None, layer_idx: int) -> torch.Tensor | None:
    """The state that the layer stored last, or None before its first token."""
    state = None if cache is None else get_recurrent_state(cache, layer_idx)
    # The cache overwrites its tensor in place, which would break the backward of what has read it.
    return state.clone() if state is not None and torch.is_grad_enabled() else state


def store_state(cache: Cache, layer_idx: int, state: torch.Tensor, token_counts: torch.Tensor) -> None:
    """Keep the layer's state and the count of its last token.

    Args:
        cache: the cache to write to.
        layer_idx: which layer the state belongs to.
        state: ``[B, H, F, D]`` or ``[B, H, F, D + 1]``.
        token_counts: ``[B or 1, N]`` int64, how many real tokens lie at or before each position.
    """
    last_count = token_counts[:, None, -1:].expand(state.shape[0], 1, 1)
    cache.update_conv_state(last_count, layer_idx, ConvState.TOKEN_COUNT)
    cache.update_recurrent_state(state, layer_idx)


def recall_columns(cache: Cache, layer_idx: int, width: int, columns: torch.Tensor) -> torch.Tensor:
    """The last `width` columns that a layer's filter has read, followed by the new `columns`; the cache keeps the end.

    Before the first call there may be fewer: the caller fills them up on the left.
    """
    return cache.update_conv_state(columns, layer_idx, ConvState.FILTER_COLUMNS, conv_kernel_size=width)
