"""Config of the ConvLuna family."""

from dataclasses import field
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .configuration_encoder import _require
from .configuration_luna import LunaConfig, Temperature


@strict
class ConvLunaConfig(LunaConfig):
    """ConvLuna: Luna with a filter on the keys and values that it packs (Yorsh et al. 2024, arXiv 2404.00798).

    The defaults are the simplified form that the authors train: no value projections, and shared query, key and
    output. ``shared_projections=[]`` with ``use_value_projection=True`` is the decoupled form.

    Args:
        memory_filter: ``"conv"`` (one learned kernel per head), ``"max_pool"``, ``"avg_pool"``, or ``"none"``.
        filter_kernel_size: tokens that the filter reads at once.
        filter_stride: tokens between two windows of the filter.

    The other fields are those of `LunaConfig`.
    """

    model_type: ClassVar[str] = "convluna"
    family_name: ClassVar[str] = "ConvLuna"

    shared_projections: list[str] = field(default_factory=lambda: ["query", "key", "output"])
    use_value_projection: bool = False
    pack_temperature: Temperature = "learned"
    unpack_temperature: Temperature = "learned"
    memory_filter: Literal["none", "conv", "max_pool", "avg_pool"] = "conv"
    filter_kernel_size: int = 4
    filter_stride: int = 1

    def validate_filter(self) -> None:
        """Refuse an empty filter, or a stride of none; `@strict` calls this with `validate_architecture`."""
        for name in ("filter_kernel_size", "filter_stride"):
            _require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        _require(
            self.memory_filter != "none" or self.filter_stride == 1,
            f"memory_filter='none' has no windows to take filter_stride={self.filter_stride} between",
        )


ConvLunaConfig.register_for_auto_class()

__all__ = ["ConvLunaConfig"]
