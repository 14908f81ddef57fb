"""Config of the ConvLuna family."""

from dataclasses import field
from typing import ClassVar, Literal

from .configuration_checks import strict_config
from .configuration_luna import LunaConfig, Temperature
from .configuration_memory_filter import MemoryFilterFields


@strict_config
class ConvLunaConfig(MemoryFilterFields, LunaConfig):
    """ConvLuna: Luna with a filter on the keys and values that it packs (Yorsh et al. 2024, arXiv 2404.00798).

    The defaults are the simplified form that the authors train: no value projections, and shared query, key and
    output. ``shared_projections=[]`` with ``use_value_projection=True`` is the decoupled form.

    Args:
        memory_filter: ``"conv"`` (one learned kernel per head), ``"max_pool"``, ``"avg_pool"``, or ``"none"``.

    The other fields are those of `MemoryFilterFields` and `LunaConfig`.
    """

    model_type: ClassVar[str] = "convluna"
    family_name: ClassVar[str] = "ConvLuna"
    formula: ClassVar[str] = "Luna, packing F(X): filtered by convolution or pooling"
    cost: ClassVar[str] = "O(N l d)"
    source: ClassVar[str] = "Yorsh et al. 2024, arXiv 2404.00798"

    shared_projections: list[str] = field(default_factory=lambda: ["query", "key", "output"])
    use_value_projection: bool = False
    pack_temperature: Temperature = "learned"
    unpack_temperature: Temperature = "learned"
    memory_filter: Literal["none", "conv", "max_pool", "avg_pool"] = "conv"


__all__ = ["ConvLunaConfig"]
