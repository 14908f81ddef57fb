"""The registry of families: the one source for the Auto classes, the tests, and the README's table."""

import importlib
from dataclasses import dataclass

from .models.configuration_effattn import HEADS, EffAttnConfig


@dataclass(frozen=True)
class Family:
    """A family of models: one attention, on the shared encoder, under every head.

    Attributes:
        model_type: transformers' name of the family, and the end of its module names.
        name: what its classes start with.
        attention: the formula of its attention, per head.
        cost: time of one attention layer in the length `N` and the head size `d`.
        source: the paper it comes from.
        causal: whether it can be a decoder.
        constant_state: whether a decoder's cache keeps its size however long the context grows.
        pairs: whether it classifies pairs of sequences.
        images: whether it reads images as sequences of pixels.
    """

    model_type: str
    name: str
    attention: str
    cost: str
    source: str
    causal: bool
    constant_state: bool
    pairs: bool
    images: bool

    @property
    def configuration_module(self) -> str:
        """Module of the family's config."""
        return f"hf_effattn.models.configuration_{self.model_type}"

    @property
    def modeling_module(self) -> str:
        """Module of the family's models."""
        return f"hf_effattn.models.modeling_{self.model_type}"

    @property
    def class_names(self) -> dict[str, str]:
        """Auto class -> name of the family's class, for every head that the family has."""
        absent = set() if self.causal else {"AutoModelForCausalLM"}
        absent |= set() if self.images else {"AutoModelForImageClassification"}
        return {auto: self.name + suffix for auto, suffix in HEADS.items() if auto not in absent}

    @property
    def config_class(self) -> type[EffAttnConfig]:
        """The family's config."""
        return getattr(importlib.import_module(self.configuration_module), f"{self.name}Config")

    def model_class(self, auto_class: str) -> type:
        """The family's class for an Auto class name, such as ``"AutoModelForMaskedLM"``.

        Raises:
            ValueError: if the family has no such head.
        """
        if auto_class not in self.class_names:
            raise ValueError(f"{self.name} has no {auto_class}; it has {list(self.class_names)}")
        return getattr(importlib.import_module(self.modeling_module), self.class_names[auto_class])


_FAMILIES = (
    Family(
        model_type="simpletron",
        name="SimpleTron",
        attention="Q (KᵀV) / √n",
        cost="O(N d²)",
        source="Yorsh et al. 2021, arXiv 2111.15588",
        causal=True,
        constant_state=True,
        pairs=True,
        images=True,
    ),
    Family(
        model_type="kernel_transformer",
        name="KernelTransformer",
        attention="φ(Q) (φ(K)ᵀV) / φ(Q) Σφ(K), φ fixed or trained",
        cost="O(N F d)",
        source="Yorsh & Kovalenko 2022, arXiv 2211.04076",
        causal=True,
        constant_state=True,
        pairs=True,
        images=True,
    ),
    Family(
        model_type="luna",
        name="Luna",
        attention="softmax(X Yᵀ / √d) Y, Y = softmax(P Xᵀ / √d) X, P a memory of l cells",
        cost="O(N l d)",
        source="Ma et al. 2021, arXiv 2106.01540",
        causal=False,
        constant_state=False,
        pairs=True,
        images=True,
    ),
    Family(
        model_type="convluna",
        name="ConvLuna",
        attention="Luna, packing F(X): filtered by convolution or pooling",
        cost="O(N l d)",
        source="Yorsh et al. 2024, arXiv 2404.00798",
        causal=False,
        constant_state=False,
        pairs=True,
        images=True,
    ),
    Family(
        model_type="memory_transformer",
        name="MemoryTransformer",
        attention="softmax(Q [M; K]ᵀ / √d) [M; V], M memory tokens, carried from segment to segment of S tokens",
        cost="O(N² d), O(N S d) in segments",
        source="Burtsev et al. 2020, arXiv 2006.11527; Bulatov et al. 2022, arXiv 2207.06881",
        causal=True,
        constant_state=False,
        pairs=True,
        images=True,
    ),
    Family(
        model_type="vanilla_transformer",
        name="VanillaTransformer",
        attention="softmax(Q Kᵀ / √d) V",
        cost="O(N² d)",
        source="Vaswani et al. 2017, arXiv 1706.03762",
        causal=True,
        constant_state=False,
        pairs=True,
        images=True,
    ),
)


def list_families() -> tuple[Family, ...]:
    """Every family of the library, in the order of the README's table."""
    return _FAMILIES
