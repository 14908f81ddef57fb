"""The config fields of the families whose keys and values can be filtered."""

from typing import Literal

from .base_cache_slots import ConvState, conv_state_count
from .configuration_checks import strict_config
from .configuration_effattn import EffAttnConfig


@strict_config
class FilteredConfig(EffAttnConfig):
    """An encoder with a filter over the sequence axis of the keys and values of every layer, see `filters`.

    Args:
        key_value_filter: ``"none"``, ``"conv"`` (one learned kernel per head), ``"max_pool"`` or ``"avg_pool"``. A
            decoder's filter ends with its own token, and its cache keeps the last ``filter_kernel_size - 1`` tokens.
        filter_kernel_size: tokens that a filter reads at once.

    The other fields are those of `EffAttnConfig`.
    """

    key_value_filter: Literal["none", "conv", "max_pool", "avg_pool"] = "none"
    filter_kernel_size: int = 4

    @property
    def layer_types(self) -> list[str]:
        """What transformers' caches keep for every layer: a filter over cached keys needs a state beside them."""
        hybrid = self.cache_type == "full_attention" and self.key_value_filter != "none"
        return ["hybrid" if hybrid else self.cache_type] * self.num_hidden_layers

    @property
    def number_of_conv_states(self) -> int:
        """States of a fixed width that transformers' caches keep per layer, see `ConvState`."""
        filtered = () if self.key_value_filter == "none" else (ConvState.FILTER_COLUMNS,)
        return conv_state_count(ConvState.TOKEN_COUNT, *filtered)


__all__ = ["FilteredConfig"]
