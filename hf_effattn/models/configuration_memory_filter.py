"""The config fields of the families that can filter what their memory reads."""

from dataclasses import dataclass
from typing import Literal

from .configuration_encoder import _require


@dataclass
class MemoryFilterFields:
    """A filter over the tokens that a memory reads, see `filters`.

    Args:
        memory_filter: ``"none"``, ``"conv"`` (one learned kernel per head), ``"max_pool"`` or ``"avg_pool"``.
        filter_kernel_size: tokens that the filter reads at once.
        filter_stride: tokens between two windows of the filter.
    """

    memory_filter: Literal["none", "conv", "max_pool", "avg_pool"] = "none"
    filter_kernel_size: int = 4
    filter_stride: int = 1

    def validate_filter(self) -> None:
        """Refuse a stride without a filter."""
        _require(
            self.memory_filter != "none" or self.filter_stride == 1,
            f"memory_filter='none' has no windows to take filter_stride={self.filter_stride} between",
        )
