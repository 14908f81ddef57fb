"""Keys and values that queries read, of a sequence, a part of it, or a memory."""

from collections.abc import Sequence
from typing import NamedTuple

import torch


class KeyValues(NamedTuple):
    """Keys and values of one layer.

    A tuple, so that libraries that move tensors between devices or hang hooks on them find them inside.

    Attributes:
        key: ``[B, H, M, D]``.
        value: ``[B, H, M, D]``.
        mask: ``[B, M]`` bool, True for one that may be read; None if all may.
    """

    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None = None


def repeat_rows(one_row: KeyValues, batch: int) -> KeyValues:
    """Keys and values of one row, without a mask, for every row of a batch; as a view."""
    return KeyValues(one_row.key.expand(batch, -1, -1, -1), one_row.value.expand(batch, -1, -1, -1))


def concatenate(parts: Sequence[KeyValues]) -> KeyValues:
    """Several parts, one behind the other."""
    key = torch.cat([part.key for part in parts], dim=2)
    value = torch.cat([part.value for part in parts], dim=2)
    if all(part.mask is None for part in parts):
        return KeyValues(key, value)
    masks = [
        key.new_ones(part.key.shape[0], part.key.shape[2], dtype=torch.bool) if part.mask is None else part.mask
        for part in parts
    ]
    return KeyValues(key, value, torch.cat(masks, dim=1))
