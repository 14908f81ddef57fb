"""What the attention layers of all families share: heads, and the limit on attention maps."""

import torch


#: The longest input for which `output_attentions=True` builds a map: at 4,096 positions one head of one sequence
#: takes 64 MiB in float32, and every layer keeps its own.
MAX_MAP_LENGTH = 4096


def split_heads(hidden_states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """``[batch, length, hidden]`` to ``[batch, heads, length, head_dim]``, as a view."""
    return hidden_states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(attended: torch.Tensor) -> torch.Tensor:
    """``[batch, heads, length, head_dim]`` to ``[batch, length, hidden]``."""
    return attended.transpose(1, 2).flatten(-2)


def refuse_long_map(length: int, has_past: bool = False) -> None:
    """Raise ValueError where an attention map cannot be had: too long an input, or keys that are gone."""
    if length > MAX_MAP_LENGTH:
        raise ValueError(
            f"output_attentions=True would build {length} x {length} maps; it is limited to {MAX_MAP_LENGTH} "
            "positions. Shorten the input, or leave output_attentions off."
        )
    if has_past:
        raise ValueError(
            "output_attentions=True needs the keys of all tokens, and the cache of linear attention keeps only their "
            "sum. Pass the whole sequence with use_cache=False."
        )
