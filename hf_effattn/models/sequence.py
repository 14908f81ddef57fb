"""What layers know of a sequence beside its hidden states, and the check of the mask that says it."""

from dataclasses import dataclass
from typing import Any

import torch

from .transforms import values_are_hidden


@dataclass(frozen=True)
class SequenceInfo:
    """What a layer has to know of the sequence beside its hidden states.

    Attributes:
        length: number of positions in this forward call, `N`.
        attention_mask: ``[batch, P + N]`` bool, True for a real token, where `P` are the positions already in a
            cache that keeps them; None if every token is real.
        token_counts: ``[batch or 1, N]`` int64: how many real tokens lie at or before each position, those of
            earlier calls included.
        total_counts: ``[batch or 1, 1]`` int64: how many real tokens the whole sequence holds.
    """

    length: int
    attention_mask: torch.Tensor | None
    token_counts: torch.Tensor
    total_counts: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "SequenceInfo":
        """The same on another device: accelerate calls this where a model is spread over several."""

        def moved(tensor: torch.Tensor | None) -> Any:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return SequenceInfo(
            self.length, moved(self.attention_mask), moved(self.token_counts), moved(self.total_counts)
        )

    @property
    def key_mask(self) -> torch.Tensor | None:
        """The mask of this call's own positions, ``[batch, N]``, or None."""
        return None if self.attention_mask is None else self.attention_mask[:, -self.length :]


def check_attention_mask(
    attention_mask: torch.Tensor, batch: int, past_length: int, length: int, with_cache: bool
) -> torch.Tensor | None:
    """The mask as bool ``[batch, past + length]``, or None if it hides nothing.

    Raises:
        ValueError: unless the mask is 2-D and covers this call, and with a cache of keys the past as well.
    """
    expected = past_length + length
    too_short = attention_mask.dim() != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < expected
    # A cache of states does not know how many positions it has seen, so a longer mask cannot be judged there.
    if too_short or (attention_mask.shape[1] > expected and (past_length > 0 or not with_cache)):
        raise ValueError(
            f"attention_mask must be [batch, length] = {[batch, expected]} with 1 for real tokens, "
            f"got {list(attention_mask.shape)}; masks per query are not supported"
        )
    attention_mask = attention_mask.ne(0)
    # Looking at the values waits for the device, so a decoding step, whose mask is cheap, does not look.
    if length > 1 and not values_are_hidden() and bool(attention_mask.all()):
        return None
    return attention_mask
