"""Registration with transformers' Auto classes, in two steps so that importing the package stays cheap."""

import functools

import transformers

from .families import list_families
from .models.configuration_encoder import EncoderConfig


def register_configs() -> None:
    """Teach `AutoConfig` our model types, and have the models registered as soon as a config is built.

    Every way to a model through an Auto class begins with a config object, so the models need not be imported
    before there is one. (`transformers.modeling_utils` alone takes longer to import than all of this package.)
    """
    for family in list_families():
        transformers.AutoConfig.register(family.model_type, family.config_class)
    EncoderConfig.before_first_config = register_models


@functools.cache
def register_models() -> None:
    """Import the model classes and register each with its Auto class."""
    for family in list_families():
        for auto_class in family.class_names:
            getattr(transformers, auto_class).register(family.config_class, family.model_class(auto_class))
