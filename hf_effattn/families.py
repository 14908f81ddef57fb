"""The registry of families: the one list from which Auto classes, tests and the README's table follow."""

import importlib
from dataclasses import dataclass

from .models.configuration_convluna import ConvLunaConfig
from .models.configuration_effattn import EffAttnConfig
from .models.configuration_kernel_transformer import KernelTransformerConfig
from .models.configuration_luna import LunaConfig
from .models.configuration_memory_transformer import MemoryTransformerConfig
from .models.configuration_simpletron import SimpleTronConfig
from .models.configuration_vanilla_transformer import VanillaTransformerConfig


#: Every family, in the order of the README's table.
CONFIG_CLASSES: tuple[type[EffAttnConfig], ...] = (
    SimpleTronConfig,
    KernelTransformerConfig,
    LunaConfig,
    ConvLunaConfig,
    MemoryTransformerConfig,
    VanillaTransformerConfig,
)


@dataclass(frozen=True)
class Family:
    """A family of models, described by its config class: one attention, on the shared skeleton, under every head."""

    config_class: type[EffAttnConfig]

    @property
    def model_type(self) -> str:
        """transformers' name of the family, and the end of its module names."""
        return self.config_class.model_type

    @property
    def name(self) -> str:
        """What the names of its classes start with."""
        return self.config_class.family_name

    @property
    def attention(self) -> str:
        """The formula of its attention, per head."""
        return self.config_class.formula

    @property
    def cost(self) -> str:
        """Time of one attention layer in the length `N` and the head size `d`."""
        return self.config_class.cost

    @property
    def source(self) -> str:
        """The paper it comes from."""
        return self.config_class.source

    @property
    def causal(self) -> bool:
        """Whether it can be a decoder."""
        return self.config_class.causal

    @property
    def constant_state(self) -> bool:
        """Whether what a decoder keeps has the same size however long its context grows."""
        return self.config_class.constant_state

    @property
    def class_names(self) -> dict[str, str]:
        """Auto class -> name of the family's class, for every head that the family has."""
        return self.config_class.class_names()

    @property
    def modeling_module(self) -> str:
        """Module of the family's models."""
        return f"hf_effattn.models.modeling_{self.model_type}"

    def model_class(self, auto_class: str) -> type:
        """The family's class for an Auto class name, such as ``"AutoModelForMaskedLM"``.

        Raises:
            ValueError: if the family has no such head.
        """
        if auto_class not in self.class_names:
            raise ValueError(f"{self.name} has no {auto_class}; it has {list(self.class_names)}")
        found: type = getattr(importlib.import_module(self.modeling_module), self.class_names[auto_class])
        return found


def list_families() -> tuple[Family, ...]:
    """Every family of the library, in the order of the README's table."""
    return tuple(Family(config_class) for config_class in CONFIG_CLASSES)


def find(model_type: str) -> Family:
    """The family of that `model_type`.

    Raises:
        ValueError: if the library has no such family.
    """
    families = {family.model_type: family for family in list_families()}
    if model_type not in families:
        raise ValueError(f"hf_effattn has no family {model_type!r}; it has {list(families)}")
    return families[model_type]
