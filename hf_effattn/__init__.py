"""hf_effattn: efficient-attention models that load, train and share like any other transformers model.

Importing the package registers its model types with the Auto classes. The models themselves are imported when the
first config is built or the first model class is asked for, so that the import stays cheap.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import auto
from .auto import backends
from .families import Family, list_families
from .models.configuration_convluna import ConvLunaConfig
from .models.configuration_effattn import HEADS, EffAttnConfig
from .models.configuration_kernel_transformer import KernelTransformerConfig
from .models.configuration_luna import LunaConfig
from .models.configuration_memory_transformer import MemoryTransformerConfig
from .models.configuration_simpletron import SimpleTronConfig
from .models.configuration_vanilla_transformer import VanillaTransformerConfig
from .version import __version__ as __version__


if TYPE_CHECKING:
    from .models.modeling_convluna import *
    from .models.modeling_kernel_transformer import *
    from .models.modeling_luna import *
    from .models.modeling_memory_transformer import *
    from .models.modeling_simpletron import *
    from .models.modeling_vanilla_transformer import *


auto.register_configs()

#: Public names that live in modules which are expensive to import, or belong to optional extras.
_LAZY = {
    "byte_tokenizer": "hf_effattn.tokenization",
    "linear_attention": "hf_effattn.models.ops_linear",
    "linear_attention_step": "hf_effattn.models.ops_linear",
    "softmax_attention": "hf_effattn.models.ops_softmax",
    "pack_attention": "hf_effattn.models.ops_pack",
    "unpack_attention": "hf_effattn.models.ops_pack",
    "KeyValueFilter": "hf_effattn.models.layer_filters",
    "diagnose": "hf_effattn.diagnostics.collect",
    "DiagnosticsCallback": "hf_effattn.diagnostics.callback",
    "attention_figure": "hf_effattn.diagnostics.figure",
    "export_checkpoint": "hf_effattn.hub.export",
    "verify_checkpoint": "hf_effattn.hub.verify",
    "audit_checkpoint": "hf_effattn.hub.audit",
    "verify_folder": "hf_effattn.hub.verify",
    "preset": "hf_effattn.presets",
    "list_presets": "hf_effattn.presets",
    "write_card": "hf_effattn.cards.card",
    "push_checkpoint": "hf_effattn.hub.push",
}
_LAZY |= {name: family.modeling_module for family in list_families() for name in family.class_names.values()}

__all__ = [
    "ConvLunaConfig",
    "EffAttnConfig",
    "Family",
    "HEADS",
    "KernelTransformerConfig",
    "LunaConfig",
    "MemoryTransformerConfig",
    "SimpleTronConfig",
    "VanillaTransformerConfig",
    "backends",
    "list_families",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hf_effattn' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
