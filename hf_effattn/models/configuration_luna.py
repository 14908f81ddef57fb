"""Config of the Luna family."""

from dataclasses import field
from typing import ClassVar, Literal

from .configuration_checks import strict_config
from .configuration_effattn import EffAttnConfig, _require


#: The projections of an attention layer, in the order in which they are applied.
PROJECTIONS = ("query", "key", "value", "output")

Temperature = Literal["unit", "sqrt", "learned"]


@strict_config
class LunaConfig(EffAttnConfig):
    """Luna: attention through a memory that the layers hand on (Ma et al. 2021, arXiv 2106.01540).

    A layer packs the sequence into its memory and unpacks what it has packed: ``Y_P = Attn(P, X, X)`` and
    ``Y_X = Attn(X, Y_P, Y_P)``. There is no causal form, see `is_decoder`.

    Args:
        memory_size: cells of the memory, `l`.
        shared_projections: which of ``"query"``, ``"key"``, ``"value"``, ``"output"`` pack and unpack have in common.
        use_value_projection: whether values are projected at all.
        pack_temperature: what scores are divided by while packing: ``"unit"`` (1), ``"sqrt"`` (the root of the head
            size) or ``"learned"`` (one positive scalar per layer, which starts at 1).
        unpack_temperature: the same while unpacking. With one cell it has no effect, and cannot be learned.
        attention_probs_dropout_prob: dropout on the weights of both attentions.
        memory_dropout_prob: dropout on what was packed, in front of its sum with the memory; `hidden_dropout_prob` if
            None.
        norm_position: the paper's layers are ``"post"``.
        last_norm: with ``pooling="memory"`` one follows the last layer's cells as well.
        block_skip: of tokens alone, since cells have no MLP.
        pooling: ``"cls"`` and ``"mean"`` as in every family, or ``"memory"``: the mean of the last layer's cells.
        is_decoder: always False. What a token reads has been packed from the whole sequence. The paper's causal
            variant is another function: it packs by a softplus instead of the softmax, and has one memory per token.

    The other fields are those of `EffAttnConfig`.
    """

    model_type: ClassVar[str] = "luna"
    family_name: ClassVar[str] = "Luna"
    formula: ClassVar[str] = "softmax(X Yᵀ / √d) Y, Y = softmax(P Xᵀ / √d) X, P a memory of l cells"
    cost: ClassVar[str] = "O(N l d)"
    source: ClassVar[str] = "Ma et al. 2021, arXiv 2106.01540"
    softmax: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    has_memory: ClassVar[bool] = True

    memory_dropout_prob: float | int | None = None
    norm_position: Literal["pre", "post"] = "post"
    memory_size: int = 256
    shared_projections: list[str] = field(default_factory=lambda: list(PROJECTIONS))
    use_value_projection: bool = True
    pack_temperature: Temperature = "sqrt"
    unpack_temperature: Temperature = "sqrt"

    def validate_memory(self) -> None:
        """Refuse options of the memory and of its projections that clash."""
        unknown = set(self.shared_projections) - set(PROJECTIONS)
        _require(not unknown, f"shared_projections may name {list(PROJECTIONS)}, not {sorted(unknown)}")
        _require(
            self.use_value_projection or "value" not in self.shared_projections,
            f"shared_projections={self.shared_projections} names the value projection, which "
            "use_value_projection=False leaves out",
        )
        _require(
            self.memory_size > 1 or self.unpack_temperature != "learned",
            "memory_size=1 leaves the unpacking softmax one item, so unpack_temperature='learned' has nothing to "
            "learn: use 'unit' or 'sqrt'",
        )


__all__ = ["PROJECTIONS", "LunaConfig", "Temperature"]
