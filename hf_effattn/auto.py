"""Registration with transformers' Auto classes, in two steps so that importing the package stays cheap."""

import functools

import torch
import transformers

from .families import list_families
from .models import backend_table as table
from .models.configuration_effattn import EffAttnConfig


def register_configs() -> None:
    """Teach `AutoConfig` our model types, and have the models registered as soon as a config is built.

    Every way to a model through an Auto class begins with a config object, so the models need not be imported
    before there is one. (`transformers.modeling_utils` alone takes longer to import than all of this package.)
    """
    for family in list_families():
        transformers.AutoConfig.register(family.model_type, family.config_class)
    EffAttnConfig.before_first_config = register_models


@functools.cache
def register_models() -> None:
    """Import the model classes and register each with its Auto class."""
    for family in list_families():
        for auto_class in family.class_names:
            getattr(transformers, auto_class).register(family.config_class, family.model_class(auto_class))


def backends(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, dict[str, str]]:
    """For every operator of the library and each of its backends: whether it runs on `device` in `dtype`, or why not.

    Compiles the CPU kernels if they could run and are not there yet.

    Returns:
        Operator to backend to ``"chosen"``, ``"available"``, or the reason why it cannot serve; the fastest first.
    """
    register_models()
    return table.backends(device, dtype)
