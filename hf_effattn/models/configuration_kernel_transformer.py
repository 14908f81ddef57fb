"""Config of the kernel attention family."""

from typing import ClassVar, Literal

from .configuration_checks import strict_config
from .configuration_filtered import FilteredConfig


#: Maps that are applied entry by entry, so their features are as many as the head is wide.
ELEMENTWISE = ("elu", "relu", "softplus")
#: Maps that are a stack of trained layers.
LAYERED = ("linear", "ffn", "glu", "low_rank_glu")


@strict_config
class KernelTransformerConfig(FilteredConfig):
    """Kernel attention ``phi(q) . sum phi(k) v^T / phi(q) . sum phi(k)`` (Yorsh & Kovalenko 2022, arXiv 2211.04076).

    Args:
        feature_map: phi. Fixed: ``"elu"`` (elu + 1), ``"relu"``, ``"softplus"``, ``"favor"`` (positive orthogonal
            random features). Trained: ``"linear"``, ``"glu"`` and ``"low_rank_glu"`` (the authors' FFN, OGLU and
            AOGLU), ``"ffn"`` (``"linear"`` with biases and residuals), ``"spectral"`` (learned frequencies of positive
            random features).
        num_features: features per head, the head size if None. Elementwise maps cannot change it.
        num_kernel_layers: layers of a feed-forward kernel, identity inside and softplus at the end.
        kernel_rank: rank of the gate of ``"low_rank_glu"``, a quarter of the head size if None.
        kernel_init: how the weights `W` of a feed-forward kernel start: ``"orthogonal"``, or ``"uniform"`` within
            ``1 / sqrt(inputs * outputs)``, which is the authors' "no orth.".
        kernel_dropout_prob: dropout on the input of every layer of a feed-forward kernel; a residual goes around it.
        orthogonality_penalty: factor on the mean of ``(W W^T - I)^2``, summed over kernel layers and blocks, that is
            returned as `aux_loss` and added to the loss once. The authors count it twice, for queries and for keys.
        num_mixtures: Gaussians per head of ``"spectral"``.
        redraw_interval: training passes between two draws of the frequencies of ``"favor"``; None never redraws.
        normalizer_eps: added to the denominator; 0 gives the authors' form (a query that sees no key reads zeros).
            Beside the features of ``"favor"`` and ``"spectral"`` it is relative: `layer_feature_maps.ExponentialMap`.

    The other fields are those of `FilteredConfig`, but for `attention_probs_dropout_prob`, which has to be
    zero: the weights that it would act on are never built.
    """

    model_type: ClassVar[str] = "kernel_transformer"
    family_name: ClassVar[str] = "KernelTransformer"
    formula: ClassVar[str] = "φ(Q) (φ(K)ᵀV) / φ(Q) Σφ(K), φ fixed or trained"
    cost: ClassVar[str] = "O(N F d)"
    source: ClassVar[str] = "Yorsh & Kovalenko 2022, arXiv 2211.04076"
    constant_state: ClassVar[bool] = True

    feature_map: Literal["elu", "relu", "softplus", "favor", "linear", "ffn", "glu", "low_rank_glu", "spectral"] = (
        "glu"
    )
    num_features: int | None = None
    num_kernel_layers: int = 1
    kernel_rank: int | None = None
    kernel_init: Literal["orthogonal", "uniform"] = "orthogonal"
    kernel_dropout_prob: float | int = 0.0
    orthogonality_penalty: float | int = 0.0
    num_mixtures: int = 4
    redraw_interval: int | None = 1000
    normalizer_eps: float | int = 1e-6

    def validate_feature_map(self) -> None:
        """Refuse options that the feature map cannot serve."""
        chosen, head_dim = self.feature_map, self.hidden_size // self.num_attention_heads
        if chosen in ELEMENTWISE and self.num_features not in (None, head_dim):
            raise ValueError(
                f"feature_map={chosen!r} keeps the head size ({head_dim}), but num_features is {self.num_features}"
            )
        layered_only = {
            "num_kernel_layers": (self.num_kernel_layers, 1),
            "kernel_dropout_prob": (self.kernel_dropout_prob, 0),
            "orthogonality_penalty": (self.orthogonality_penalty, 0),
        }
        for name, (value, neutral) in layered_only.items():
            if value != neutral and chosen not in LAYERED:
                raise ValueError(f"{name}={value} is for the feature maps {LAYERED}, not for {chosen!r}")
        if self.kernel_init != "orthogonal" and chosen not in LAYERED:
            raise ValueError(f"kernel_init={self.kernel_init!r} is for the feature maps {LAYERED}, not for {chosen!r}")
        if self.kernel_rank is not None and chosen != "low_rank_glu":
            raise ValueError(f"kernel_rank={self.kernel_rank} is for feature_map='low_rank_glu', not for {chosen!r}")
        if self.attention_probs_dropout_prob:
            raise ValueError(
                f"attention_probs_dropout_prob={self.attention_probs_dropout_prob} acts on weights that kernel "
                f"attention (feature_map={chosen!r}) never builds; use kernel_dropout_prob or hidden_dropout_prob"
            )


__all__ = ["KernelTransformerConfig"]
