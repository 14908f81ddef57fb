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
    formula: ClassVar[str] = "softmax(Q Kᵀ / √d) V"
    cost: ClassVar[str] = "O(N² d)"
    source: ClassVar[str] = "Vaswani et al. 2017, arXiv 1706.03762"
    softmax: ClassVar[bool] = True


__all__ = ["VanillaTransformerConfig"]
