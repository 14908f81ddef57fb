"""Where a model starts: its config, its weights and its tokenizer."""

from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..tokenization import byte_tokenizer
from .arguments import RunArguments
from .matched_configs import check_length
from .new_configs import new_config
from .user_data import UserRunArguments


#: Ids of special tokens that a new model takes over from its tokenizer.
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def start_config(run: RunArguments, **fields: Any) -> PreTrainedConfig:
    """The config of ``--model_config``, a file or a preset, or that of the checkpoint, with `fields` set.

    Raises:
        FileNotFoundError: there is no such config file or preset.
    """
    if run.model_config is not None:
        return new_config(run.model_config, **fields)
    config: PreTrainedConfig = AutoConfig.from_pretrained(str(run.model_name_or_path), **fields)
    return config


def start_model(auto_class: str, run: RunArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of an Auto class, from the weights of the checkpoint or with new ones."""
    auto = getattr(transformers, auto_class)
    if run.model_name_or_path is not None:
        model: PreTrainedModel = auto.from_pretrained(run.model_name_or_path, config=config)
    else:
        model = auto.from_config(config)
    return model


def load_tokenizer(run: UserRunArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of ``--tokenizer``, or the checkpoint's, or for a new model that of bytes.

    Raises:
        ValueError: there is none, or it has no token to pad with.
    """
    source = run.tokenizer or run.model_name_or_path
    if source is None:
        return byte_tokenizer(run.max_length)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} has no tokenizer: name one with --tokenizer ({error})") from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {source} has no padding token: set its pad_token and save it again")
    return tokenizer


def config_for_tokenizer(run: UserRunArguments, tokenizer: PreTrainedTokenizerBase, **fields: Any) -> PreTrainedConfig:
    """`start_config` for texts of a tokenizer, whose special ids a new model takes over.

    Raises:
        FileNotFoundError: there is no such config file or preset.
        ValueError: the model has fewer ids than the tokenizer, or fewer positions than `run.max_length`.
    """
    if run.model_config is not None:
        fields |= {name: getattr(tokenizer, name) for name in SPECIAL_IDS}
    config = start_config(run, **fields)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model vocab_size={config.vocab_size}: set vocab_size "
            "in the config of a new model, or take the checkpoint's own tokenizer"
        )
    check_length(config, run.max_length)
    return config
