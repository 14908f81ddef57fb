"""Config of the softmax baseline."""

from typing import ClassVar

from .configuration_checks import strict_config
from .configuration_filtered import FilteredConfig


@strict_config
class VanillaTransformerConfig(FilteredConfig):
    """The softmax Transformer (Vaswani et al. 2017, arXiv 1706.03762) on the skeleton of the other families.

    Args:
        attention_probs_dropout_prob: dropout on the attention weights.

    The other fields are those of `FilteredConfig`.
    """

    model_type: ClassVar[str] = "vanilla_transformer"
    family_name: ClassVar[str] = "VanillaTransformer"
    softmax: ClassVar[bool] = True
    cache_type: ClassVar[str] = "full_attention"


VanillaTransformerConfig.register_for_auto_class()

__all__ = ["VanillaTransformerConfig"]
