"""The config fields of the families that can filter what their memory reads."""

from dataclasses import dataclass
from typing import Literal

from .configuration_effattn import _require


@dataclass
class MemoryFilterFields:
    """A filter over the tokens that a memory reads, see `filters`.

    Args:
        memory_filter: ``"none"``, ``"conv"`` (one learned kernel per head), ``"max_pool"`` or ``"avg_pool"``.
        filter_kernel_size: tokens that the filter reads at once.
        filter_stride: tokens between two windows of the filter.
        filter_windows: ``"all"``: every token, or every `filter_stride`-th, has a window, which may reach beyond the
            sequence: ``ceil(n / s)`` windows of `n` tokens. ``"full"``: only windows that lie inside it, ``floor((n -
            k) / s) + 1``, but at least one. The authors' pooling and their strided convolutions are ``"full"``, their
            convolution of stride 1 is ``"all"``.
    """

    memory_filter: Literal["none", "conv", "max_pool", "avg_pool"] = "none"
    filter_kernel_size: int = 4
    filter_stride: int = 1
    filter_windows: Literal["all", "full"] = "all"

    def validate_filter(self) -> None:
        """Refuse a stride without a filter."""
        _require(
            self.memory_filter != "none" or self.filter_stride == 1,
            f"memory_filter='none' has no windows to take filter_stride={self.filter_stride} between",
        )
        _require(
            self.memory_filter != "none" or self.filter_windows == "all",
            f"memory_filter='none' has no windows, of which filter_windows={self.filter_windows!r} leaves some out",
        )
