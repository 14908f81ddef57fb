"""Filters over the keys and values of attention: ConvLuna's in front of its memory, and the same for other families.

A memory that many tokens are packed into degrades in training; filtering the keys and values first, by a convolution
or by pooling, is the remedy of ConvLuna (Yorsh et al. 2024, arXiv 2404.00798). Output `t` of a filter reads a window
of `kernel_size` tokens:

- ``stride = 1``: around `t`, from ``t - (k - 1) // 2`` to ``t + k // 2`` (the "same" convolution, an even kernel
  reaching one token further to the right), and as many outputs as tokens;
- causal: the `k` tokens that end with `t`;
- ``stride > 1``: the `k` tokens that start with ``t * stride``; `n` real tokens have ``ceil(n / stride)`` windows;
- full windows: the same at any stride, but without the windows that reach beyond the last real token. A row of fewer
  than `k` real tokens has one window, of all of them.

Windows ignore padding: a convolution reads zero there, and a maximum or a mean leaves it out. A window is real if the
token that it belongs to is real, so a padded sequence has the windows of the unpadded one. Padding between real tokens
keeps its place, so the input that a decoder goes on from has to be padded on the left.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init

from .configuration_effattn import EffAttnConfig
from .configuration_filtered import FilteredConfig
from .configuration_memory_filter import MemoryFilterFields


#: Takes the columns of new tokens ``[B, C, N]``, keeps the last of them for the next call, and returns those that
#: earlier calls kept, followed by the new ones.
Recall = Callable[[torch.Tensor], torch.Tensor]


class KeyValueFilter(nn.Module):
    """One filter over the sequence axis of keys and values, the same for both.

    Args:
        kind: ``"conv"`` (``sum_i w_i x_i``, one kernel per head for all its channels, no bias), ``"max_pool"`` or
            ``"avg_pool"``.
        num_heads: heads, and so kernels of the convolution: its only parameter is ``weight [heads, kernel_size]``.
        kernel_size: tokens in a window, `k`.
        stride: tokens between the starts of two windows; 1 for a causal filter.
        causal: whether a window ends with its own token.
        full_windows: whether windows that would reach beyond the sequence are left out; not for a causal filter.

    Complexity: O(N k hidden) time, O(N hidden) memory.
    """

    def __init__(
        self,
        kind: str,
        num_heads: int,
        kernel_size: int,
        stride: int = 1,
        causal: bool = False,
        full_windows: bool = False,
    ):
        super().__init__()
        self.full_windows = full_windows
        self.kind, self.kernel_size, self.stride, self.causal = kind, kernel_size, stride, causal
        self.weight = nn.Parameter(torch.empty(num_heads, kernel_size)) if kind == "conv" else None

    def start_weights(self, config: EffAttnConfig) -> None:
        """Start a convolution as torch does one with a channel per group, which is what the authors use."""
        if self.weight is not None:
            bound = self.kernel_size**-0.5
            init.uniform_(self.weight, -bound, bound)

    def forward(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
        recall: Recall | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The filtered keys and values, and their mask.

        Args:
            key: ``[B, H, N, D]``.
            value: ``[B, H, N, D]``.
            mask: ``[B, N]`` bool, True for a real token, or None.
            recall: the memory of a causal filter between calls, see `Recall`.

        Returns:
            Twice ``[B, H, M, D]``, and ``[B, M]`` or None, with M as in `window_counts`. Windows whose own token is
            padding are zero.
        """
        if (self.stride > 1 or self.full_windows) and mask is not None:
            key, value, mask = _flush_left(key, value, mask)
        length, heads = key.shape[2], key.shape[1]
        columns, real = [_to_columns(key), _to_columns(value)], None if mask is None else mask[:, None]
        if real is not None:
            columns = [_fill(part, ~real, 0.0) for part in columns]
        if recall is not None:
            recalled, real = _recalled(torch.cat(columns, dim=1), real, recall)
            columns = list(recalled.split([part.shape[1] for part in columns], dim=1))
        margins = self._margins(length, columns[0].shape[-1])
        filtered = [self._windows(part, real, margins) for part in columns]
        if mask is not None:
            mask = self._real_windows(mask)
            filtered = [_fill(part, ~mask[:, None], 0.0) for part in filtered]
        key, value = (part.transpose(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2) for part in filtered)
        return key, value, mask

    def window_counts(self, lengths: torch.Tensor) -> torch.Tensor:
        """How many windows sequences of so many tokens have: ``ceil(n / stride)``, or the full ones, at least one."""
        if self.full_windows:
            lengths = (lengths - self.kernel_size + 1).clamp(min=1).minimum(lengths)
        return (lengths + self.stride - 1) // self.stride

    def _real_windows(self, mask: torch.Tensor) -> torch.Tensor:
        """Which windows ``[B, M]`` are real, of tokens ``[B, N]`` that are real or not."""
        if not self.full_windows:
            return _every(mask, self.stride)
        # A window's last token must not lie behind the row's last real one. Only the first window may be cut short.
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1, keepdim=True)
        start = torch.arange(mask.shape[1], device=mask.device)
        whole = (start + self.kernel_size - 1 <= last) | (start == 0)
        windows = max(1, mask.shape[1] - self.kernel_size + 1)
        return (mask & whole)[:, : windows : self.stride]

    def _margins(self, length: int, columns: int) -> tuple[int, int]:
        """What the windows of `length` tokens read before and after the `columns` at hand."""
        if self.causal:
            return length + self.kernel_size - 1 - columns, 0
        if self.full_windows:
            return 0, max(0, self.kernel_size - length)
        if self.stride == 1:
            return (self.kernel_size - 1) // 2, self.kernel_size // 2
        windows = -(-length // self.stride)
        return 0, (windows - 1) * self.stride + self.kernel_size - columns

    def _windows(self, columns: torch.Tensor, real: torch.Tensor | None, margins: tuple[int, int]) -> torch.Tensor:
        """The output of every window, ``[B, C, M]``, over columns ``[B, C, L]``; `real` is ``[B, 1, L]``.

        Torch's two-dimensional functions run on columns as they lie in memory, channels last, and so does the result;
        its one-dimensional ones would first copy them.
        """
        if self.weight is not None:
            channels = columns.shape[1]
            kernels = self.weight.repeat_interleave(channels // self.weight.shape[0], dim=0)
            convolve = partial(functional.conv2d, weight=kernels[:, None, None], groups=channels)
            return self._slide(convolve, columns, margins, widest=self.kernel_size)
        window, half = (1, self.kernel_size), self.kernel_size // 2
        if self.kind == "max_pool":
            lowest = torch.finfo(columns.dtype).min
            columns = columns if real is None else _fill(columns, ~real, lowest)
            return self._slide(partial(functional.max_pool2d, kernel_size=window), columns, margins, half, lowest)
        mean = partial(functional.avg_pool2d, kernel_size=window)
        counted = torch.ones_like(columns[:1, :1]) if real is None else real.to(columns.dtype)
        share = self._slide(mean, counted, margins, half)
        return self._slide(mean, columns, margins, half) / share.clamp(min=0.5 / self.kernel_size)

    def _slide(
        self,
        function: Callable[..., torch.Tensor],
        columns: torch.Tensor,
        margins: tuple[int, int],
        widest: int,
        fill: float = 0.0,
    ) -> torch.Tensor:
        """Apply `function` to windows of the columns with `margins` around them.

        Up to `widest` columns of margin the function pads by itself; more are padded here, by a copy.
        """
        image, (before, after) = columns.unsqueeze(2), margins
        imagined = 0 if self.stride > 1 else max(margins)
        if self.stride > 1 or imagined > widest or before < 0:
            image = functional.pad(image, (before, after), value=fill)
            return function(image, stride=(1, self.stride)).squeeze(2)
        windows = function(image, stride=1, padding=(0, imagined)).squeeze(2)
        count = columns.shape[-1] + before + after - self.kernel_size + 1
        return windows.narrow(-1, imagined - before, count)


def make_key_value_filter(config: FilteredConfig) -> KeyValueFilter | None:
    """The filter over the keys and values of a sequence that the config names, causal for a decoder."""
    if config.key_value_filter == "none":
        return None
    heads, size = config.num_attention_heads, config.filter_kernel_size
    return KeyValueFilter(config.key_value_filter, heads, size, causal=config.is_decoder)


def make_memory_filter(fields: MemoryFilterFields, num_heads: int) -> KeyValueFilter | None:
    """The filter over the keys and values that a memory reads, as the fields name it."""
    if fields.memory_filter == "none":
        return None
    return KeyValueFilter(
        fields.memory_filter,
        num_heads,
        fields.filter_kernel_size,
        fields.filter_stride,
        full_windows=fields.filter_windows == "full",
    )


def _to_columns(heads: torch.Tensor) -> torch.Tensor:
    """``[B, H, N, D]`` to ``[B, H * D, N]``; a view where the heads lie side by side in memory."""
    return heads.transpose(1, 2).flatten(2).transpose(1, 2)


def _every(mask: torch.Tensor, stride: int) -> torch.Tensor:
    """``mask[:, ::stride]``, in a form that shows an exported graph that `_slide` gives as many windows."""
    if stride == 1:
        return mask
    windows = -(-mask.shape[1] // stride)
    by_window: torch.Tensor = functional.pad(mask, (0, windows * stride - mask.shape[1])).unflatten(
        1, (windows, stride)
    )
    return by_window[:, :, 0]


def _fill(columns: torch.Tensor, where: torch.Tensor, value: float) -> torch.Tensor:
    """`columns` with `value` at the tokens `where` ``[B, 1, N]``, in the same order in memory."""
    return columns.transpose(1, 2).masked_fill(where.transpose(1, 2), value).transpose(1, 2)


def _recalled(
    columns: torch.Tensor, real: torch.Tensor | None, recall: Recall
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Columns and whether they are real, with those of earlier calls in front of them."""
    real = columns.new_ones(columns.shape[0], 1, columns.shape[2]) if real is None else real.to(columns.dtype)
    recalled = recall(torch.cat([columns, real], dim=1))
    return recalled[:, :-1], recalled[:, -1:] != 0


def _flush_left(
    key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every row moved to begin with its first real token, so that strided windows do not depend on the padding."""
    length = mask.shape[1]
    source = torch.arange(length, device=mask.device) + mask.int().argmax(1, keepdim=True)
    inside = source < length
    source = source.clamp(max=length - 1)

    def moved(heads: torch.Tensor) -> torch.Tensor:
        return heads.gather(2, source[:, None, :, None].expand(-1, heads.shape[1], -1, heads.shape[3]))

    return moved(key), moved(value), mask.gather(1, source) & inside
