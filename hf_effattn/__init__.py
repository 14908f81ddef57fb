"""hf_effattn: efficient-attention models that load, train and share like any other transformers model.

Importing the package registers its model types with the Auto classes. Every public name is imported when it is first
used, so that the import stays cheap; the models also when a first config is built. Editors and type checkers read the
names in ``__init__.pyi``.
"""

import importlib
from typing import Any

from . import auto
from .families import list_families
from .version import __version__ as __version__


auto.register_configs()

#: Public name -> the module that it is imported from.
_MODULES = {
    "DiagnosticsCallback": "hf_effattn.diagnostics.callback",
    "EffAttnConfig": "hf_effattn.models.configuration_effattn",
    "Family": "hf_effattn.families",
    "HEADS": "hf_effattn.models.configuration_effattn",
    "KeyValueFilter": "hf_effattn.models.layer_filters",
    "attention_figure": "hf_effattn.diagnostics.figure",
    "audit_checkpoint": "hf_effattn.hub.audit",
    "backends": "hf_effattn.operators",
    "byte_tokenizer": "hf_effattn.tokenization",
    "diagnose": "hf_effattn.diagnostics.collect",
    "export_checkpoint": "hf_effattn.hub.export",
    "linear_attention": "hf_effattn.models.ops_linear",
    "linear_attention_step": "hf_effattn.models.ops_linear",
    "list_families": "hf_effattn.families",
    "pack_attention": "hf_effattn.models.ops_pack",
    "push_checkpoint": "hf_effattn.hub.push",
    "softmax_attention": "hf_effattn.models.ops_softmax",
    "unpack_attention": "hf_effattn.models.ops_pack",
    "verify_checkpoint": "hf_effattn.hub.verify",
    "verify_folder": "hf_effattn.hub.verify",
    "list_presets": "hf_effattn.presets",
    "preset": "hf_effattn.presets",
    "write_card": "hf_effattn.cards.card",
}
for _family in list_families():
    _MODULES[_family.config_class.__name__] = _family.config_class.__module__
    _MODULES |= dict.fromkeys(_family.class_names.values(), _family.modeling_module)

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hf_effattn' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
