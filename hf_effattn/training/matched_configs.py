"""Configs of new models of one size, of any type: ours, and those of transformers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ..families import list_families


#: The largest window of Longformer on either side together, block of BigBird and number of landmarks of Nystromformer.
WINDOW, BLOCK, LANDMARKS = 256, 64, 64

#: Types of transformers that number positions from the one behind the id of padding.
BEHIND_PADDING = frozenset(
    {
        *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "roberta"),
        *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
    }
)

#: Fields with which some types give embeddings another width than the residual stream.
EMBEDDING_WIDTHS = ("embedding_size", "input_embedding_size")


@dataclass(frozen=True)
class Size:
    """What models that are compared have in common.

    Attributes:
        length: tokens of the longest input.
        vocabulary: token ids; 0 is padding.
        hidden: width of the residual stream.
        layers: number of blocks.
        heads: heads per attention layer.
        intermediate: width of the MLP.
    """

    length: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int

    def fields(self) -> dict[str, Any]:
        """The size in the names that our configs and most of transformers' have, with dropout off.

        Dropout takes torch's fused softmax attention out of service on CPUs.
        """
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.length,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "pad_token_id": 0,
        }


def is_ours(model_type: str) -> bool:
    """Whether a model type is one of this library."""
    return any(family.model_type == model_type for family in list_families())


def matched_config(model_type: str, size: Size, **options: Any) -> PreTrainedConfig:
    """The config of a new model of `size`.

    Args:
        model_type: a model type of this library, or one of transformers.
        size: what it has in common with the others.
        **options: further fields of the config, which win over those that follow from the size.

    Raises:
        ValueError: a model type that transformers does not know, or whose config names its size in a way that is not
            known here, so that the model would not have it.
    """
    fields = _ADAPTED.get(model_type, Size.fields)(size)
    if model_type in CONFIG_MAPPING:
        known = CONFIG_MAPPING[model_type].__dataclass_fields__
        fields |= {name: size.hidden for name in EMBEDDING_WIDTHS if name in known}
    if model_type in BEHIND_PADDING:
        fields["max_position_embeddings"] += 1
    # transformers writes into the lists that a config is given.
    config = AutoConfig.for_model(model_type, **copy.deepcopy(fields | options))
    if unread := fields.keys() - type(config).__dataclass_fields__.keys() - config.attribute_map.keys():
        raise ValueError(
            f"the config of model type {model_type!r} has no {sorted(unread)}, so its model would have another size; "
            f"choose a type of this library, bert or another one with such fields, or one of {sorted(_ADAPTED)}"
        )
    return config


def check_length(config: PreTrainedConfig, length: int) -> None:
    """Raise ValueError if a model with this config has fewer than `length` positions."""
    # Models of transformers are limited by their positions, if they have any.
    limit = getattr(config, "max_input_length", getattr(config, "max_position_embeddings", None))
    if limit is not None and config.model_type in BEHIND_PADDING:
        limit -= config.pad_token_id + 1
    if limit is not None and length > limit:
        raise ValueError(f"max_length ({length}) exceeds the model's positions ({limit})")


def _big_bird(size: Size) -> dict[str, Any]:
    # Eleven blocks or fewer, and it would compute full attention. It pads to whole blocks, which need positions.
    block = min(BLOCK, max(1, size.length // 16))
    positions = -(-size.length // block) * block
    sparse = {"attention_type": "block_sparse", "block_size": block, "max_position_embeddings": positions}
    return size.fields() | sparse


def _longformer(size: Size) -> dict[str, Any]:
    # Its windows are even.
    return size.fields() | {"attention_window": min(WINDOW, max(2, size.length // 8 * 2))}


def _nystromformer(size: Size) -> dict[str, Any]:
    # As many landmarks as tokens, and it would compute full attention.
    fitting = (count for count in range(min(LANDMARKS, size.length // 4), 0, -1) if size.length % count == 0)
    return size.fields() | {"num_landmarks": next(fitting, 1), "segment_means_seq_len": size.length}


def _fnet(size: Size) -> dict[str, Any]:
    headed = ("num_attention_heads", "attention_probs_dropout_prob")
    return {name: value for name, value in size.fields().items() if name not in headed}


def _reformer(size: Size) -> dict[str, Any]:
    rows = 2 ** (size.length.bit_length() // 2)
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "attn_layers": ["local", "lsh"] * (size.layers // 2),
        "num_attention_heads": size.heads,
        "max_position_embeddings": size.length,
        "attention_head_size": size.hidden // size.heads,
        "feed_forward_size": size.intermediate,
        "axial_pos_shape": (rows, size.length // rows),
        "axial_pos_embds_dim": (size.hidden // 4, size.hidden - size.hidden // 4),
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
        "hash_seed": 0,
        "pad_token_id": 0,
        "is_decoder": False,
    }


def _funnel(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": size.vocabulary,
        "block_sizes": [size.layers // 2, size.layers - size.layers // 2],
        "d_model": size.hidden,
        "n_head": size.heads,
        "d_head": size.hidden // size.heads,
        "d_inner": size.intermediate,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "pad_token_id": 0,
    }


#: Model types whose size needs more than the usual fields.
_ADAPTED: dict[str, Callable[[Size], dict[str, Any]]] = {
    "big_bird": _big_bird,
    "fnet": _fnet,
    "funnel": _funnel,
    "longformer": _longformer,
    "nystromformer": _nystromformer,
    "reformer": _reformer,
}
