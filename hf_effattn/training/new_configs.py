"""The config of a new model, which ``--model_config`` names: a file or folder, or a preset."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..files import read_json
from ..presets import Preset, find_preset


def new_config(name: str, **fields: Any) -> PreTrainedConfig:
    """The config in a file or folder, or of a preset such as ``simpletron/lra2022-text``, with `fields` replaced.

    A path that exists comes before a preset of the same name.

    Raises:
        FileNotFoundError: there is neither; the message lists the nearest presets.
    """
    if (preset := _preset(name)) is not None:
        return preset.config(**fields)
    config: PreTrainedConfig = AutoConfig.from_pretrained(name, **fields)
    return config


def number_of_classes(name: str) -> int | None:
    """How many classes a config file or a preset says that it is for; None if it does not say.

    Raises:
        FileNotFoundError: as in `new_config`.
    """
    if (preset := _preset(name)) is not None:
        return preset.fields.get("num_labels")
    return read_json(name).get("num_labels") if Path(name).is_file() else None


def _preset(name: str) -> Preset | None:
    """The preset of a name; None for a path that exists."""
    if Path(name).exists():
        return None
    try:
        return find_preset(name)
    except ValueError as error:
        raise FileNotFoundError(f"there is no config file {name}, and {error}") from error
