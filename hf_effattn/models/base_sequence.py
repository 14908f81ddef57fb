"""`SequenceInfo`, which layers get beside the hidden states, and the check of attention masks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.import_utils import is_tracing

from .base_transforms import values_are_hidden


@dataclass(frozen=True)
class SequenceInfo:
    """Length, mask and counts of real tokens: what a layer needs beside the hidden states.

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


_unique: Callable[[torch.Tensor], torch.Tensor] = torch.unique


def readable(tensor: torch.Tensor) -> bool:
    """Whether a check may look at values.

    Not while torch.compile, export, jit or a CUDA graph record the call, since the check would not see later inputs,
    not under torch.func's transforms, nor where there are no values, as on the meta device.
    """
    return not (values_are_hidden() or tensor.is_meta or is_tracing(tensor))


def real_tokens(attention_mask: torch.Tensor) -> torch.Tensor:
    """A mask of zeros and ones as bool, True for a real token."""
    return attention_mask if attention_mask.dtype == torch.bool else attention_mask == 1


def check_mask_values(attention_mask: torch.Tensor) -> None:
    """Raise ValueError unless the mask is bool, or holds zeros and ones alone."""
    if attention_mask.dtype == torch.bool or not readable(attention_mask):
        return
    if bool(((attention_mask == 0) | (attention_mask == 1)).all()):
        return
    found = _unique(attention_mask)[:4].tolist()
    if not attention_mask.is_floating_point() and found[0] >= 0:
        raise ValueError(
            f"attention_mask holds {found}: numbers of packed documents are not supported, since the documents would "
            "read one another. Give every document a row of its own, with 1 for its tokens and 0 for padding"
        )
    raise ValueError(
        f"attention_mask must be 1 for real tokens and 0 for padding, but holds {found}: additive and weighted masks "
        "are not supported. Pass the tokenizer's mask; of an additive one (0 to read, -inf or -10000 to leave out), "
        "pass mask == 0"
    )


def check_attention_mask(
    attention_mask: torch.Tensor, batch: int, past_length: int, length: int, seen: torch.Tensor | None
) -> torch.Tensor | None:
    """The mask as bool ``[batch, past + length]``, or None if it hides nothing.

    The values are checked wherever they can be read. While a graph is made (`readable`), and in decoding steps on an
    accelerator, which would have to wait for it, what is not exactly 1 counts as padding.

    Args:
        attention_mask: bool, or zeros and ones of any dtype, ``[batch, past + length]``.
        batch: rows of this call.
        past_length: positions that a cache keeps one by one.
        length: positions of this call.
        seen: ``[batch, 1]``, how many real tokens a cache of states has seen; None without one. The mask may then be
            of this call's positions alone, or of the whole, whose beginning must have as many real tokens.

    Raises:
        ValueError: a mask that is not 2-D, does not cover this call and what the cache keeps, holds other values, or
            disagrees with the cache.
    """
    expected = past_length + length
    too_short = attention_mask.dim() != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < expected
    if too_short or (attention_mask.shape[1] > expected and seen is None):
        raise ValueError(
            f"attention_mask must be [batch, length] = {[batch, expected]} with 1 for real tokens, "
            f"got {list(attention_mask.shape)}; masks per query are not supported: an encoder or a decoder masks the "
            "rest itself (is_decoder)"
        )
    # Reading values makes Python wait for an accelerator, which a decoding step cannot afford.
    looks = readable(attention_mask) and (length > 1 or attention_mask.device.type == "cpu")
    if looks:
        check_mask_values(attention_mask)
    attention_mask = real_tokens(attention_mask)
    if looks and seen is not None and attention_mask.shape[1] > length:
        past = attention_mask[:, :-length].sum(-1, keepdim=True)
        if bool((past != seen.to(past.device)).any()):
            raise ValueError(
                f"before its last {length} columns attention_mask has {past.flatten().tolist()} real tokens, but the "
                f"cache has seen {seen.flatten().tolist()}: pass the mask of the cached tokens and the new ones, or "
                "that of the new ones alone"
            )
    if looks and length > 1 and bool(attention_mask.all()):
        return None
    return attention_mask
