"""Registration with transformers' Auto classes, in two steps so that importing the package stays cheap."""

import functools
from typing import Any

import transformers

from .families import list_families
from .models.configuration_effattn import EffAttnConfig


def register_configs() -> None:
    """Teach `AutoConfig` our model types, and have the models registered as soon as a config is built.

    Every way to a model through an Auto class begins with a config object, so the models need not be imported
    before there is one. (`transformers.modeling_utils` alone takes longer to import than all of this package.)
    """
    for family in list_families():
        transformers.AutoConfig.register(family.model_type, family.config_class)
    finish = EffAttnConfig.__post_init__

    @functools.wraps(finish)
    def register_and_finish(config: EffAttnConfig, **kwargs: Any) -> None:
        register_models()
        finish(config, **kwargs)

    # Set from here, because the code of configs travels inside checkpoints, where there is nothing to register.
    EffAttnConfig.__post_init__ = register_and_finish  # type: ignore[method-assign, assignment]


@functools.cache
def register_models() -> None:
    """Import the model classes and register each with its Auto class."""
    for family in list_families():
        for auto_class in family.class_names:
            getattr(transformers, auto_class).register(family.config_class, family.model_class(auto_class))
