"""Config of the SimpleTRON family."""

from typing import ClassVar, Literal

from .configuration_checks import strict_config
from .configuration_filtered import FilteredConfig


@strict_config
class SimpleTronConfig(FilteredConfig):
    """SimpleTRON: attention without softmax, ``Q (K^T V) / sqrt(n)`` (Yorsh et al. 2021, arXiv 2111.15588).

    Args:
        attention_scale: ``"sqrt_len"`` divides by the root of the number of real tokens, ``"sqrt_len_dim"`` by the
            root of that number times the head size (the authors' form for weights taken from a softmax model). A
            causal token counts the real tokens up to itself.
        use_output_projection: whether a linear map mixes the heads after attention. The paper's models have none;
            weights taken from a softmax model need it.
        attention_probs_dropout_prob: dropout on the entries of ``K^T V``, as the authors do. It is not defined for
            the causal form, which raises when it is trained with a value above zero.

    The other fields are those of `FilteredConfig`.
    """

    model_type: ClassVar[str] = "simpletron"
    family_name: ClassVar[str] = "SimpleTron"
    formula: ClassVar[str] = "Q (KᵀV) / √n"
    cost: ClassVar[str] = "O(N d²)"
    source: ClassVar[str] = "Yorsh et al. 2021, arXiv 2111.15588"
    constant_state: ClassVar[bool] = True

    attention_scale: Literal["sqrt_len", "sqrt_len_dim"] = "sqrt_len"
    use_output_projection: bool = False


__all__ = ["SimpleTronConfig"]
