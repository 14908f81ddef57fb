"""Presets: named configs of every family, for trials, for the quickstart, and of the authors' models.

A preset is called ``<model_type>/<setup>``. The setups are:

- ``tiny``, ``quickstart``, ``base``: for trials, for the quickstart, and of the size of BERT-base.
- ``lra2022-<task>``: the authors' Long Range Arena of SimpleTRON (arXiv 2111.15588) and of the trained kernels
  (2211.04076), from their code at commit 0dd1215.
- ``lra2024-<task>``: that of ConvLuna (2404.00798), from their later code.
- ``authors-<task>``: what their code computes where it differs from its paper, see `AUTHORS`.

Both arenas have the sizes, skeleton, first weights and dropout of the authors' code, for the families of others too.
The tables of this file are the only source; ``training_scripts/make_configs.py`` writes ``modeling_configs/`` from it.
"""

import copy
import difflib
from dataclasses import dataclass
from typing import Any

from .families import list_families
from .models.configuration_effattn import EffAttnConfig


Fields = dict[str, Any]


def sizes(hidden: int, feed_forward: int, heads: int, layers: int, positions: int) -> Fields:
    """The fields of a size."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": feed_forward,
        "max_position_embeddings": positions,
    }


def arena(*size: int, dropout: float = 0.1) -> Fields:
    """The authors' skeleton in a size: norms, dropout, [CLS] and first weights."""
    return {
        **sizes(*size),
        "hidden_dropout_prob": dropout,
        "embedding_dropout_prob": 0.0,
        "attention_output_dropout_prob": 0.0,
        "classifier_dropout": 0.0,
        "embedding_norm": False,
        "cls_position": False,
        "init_scheme": "authors",
    }


#: Task -> the fields of its models. Only models of single sequences have a last norm; the hidden layers of their
#: classifiers are as wide as the MLP.
TASKS: dict[str, Fields] = {
    "text": {"num_labels": 2, "last_norm": True},
    # Padding, 15 tokens, [CLS] and an id for anything else.
    "listops": {"num_labels": 10, "vocab_size": 18, "last_norm": True},
    "retrieval": {"num_labels": 2, "pair_features": "concat", "last_norm": False},
    "image": {"num_labels": 10, "num_channels": 1, "last_norm": True, "classifier_hidden_size": [512, 512]},
    "pathfinder": {"num_labels": 2, "num_channels": 1, "last_norm": True, "classifier_hidden_size": [512, 512]},
}
#: Setup -> size and skeleton. Sequences of the arenas have one position more than the task, for [CLS].
SETUPS: dict[str, Fields] = {
    "tiny": sizes(32, 64, 2, 2, 256),
    "quickstart": {
        **sizes(64, 256, 4, 2, 512),
        "hidden_dropout_prob": 0.0,
        "initializer_range": 0.1,
        "pooling": "mean",
    },
    "base": sizes(768, 3072, 12, 12, 4096),
    "lra2022-text": arena(256, 1024, 4, 4, 4001),
    "lra2022-listops": arena(512, 2048, 8, 6, 2001),
    "lra2022-retrieval": {**arena(128, 512, 4, 4, 4001), "classifier_act": "relu"},
    "lra2024-text": arena(128, 512, 4, 4, 4001),
    "lra2024-listops": arena(128, 512, 4, 6, 2001),
    "lra2024-retrieval": arena(128, 512, 4, 6, 4001),
    "lra2024-image": arena(128, 512, 4, 8, 1025, dropout=0.0),
    "lra2024-pathfinder": arena(128, 512, 4, 6, 1025, dropout=0.0),
}

#: A filter before the keys and values.
FILTERED: Fields = {"key_value_filter": "conv"}
_LUNA_ARENA: Fields = {"memory_size": 256, "memory_dropout_prob": 0.0}

#: Family -> its own fields: in all setups, in one of them, or in those of both arenas.
FAMILIES: dict[str, dict[str, Fields]] = {
    "simpletron": {"quickstart": FILTERED},
    "kernel_transformer": {
        "all": {"feature_map": "glu"},
        "quickstart": FILTERED,
        "arena": {"num_kernel_layers": 2, "orthogonality_penalty": 0.01},
    },
    "luna": {"tiny": {"memory_size": 16}, "quickstart": {"memory_size": 16}, "arena": _LUNA_ARENA},
    "convluna": {
        "tiny": {"memory_size": 16},
        "quickstart": {"memory_size": 16},
        "arena": _LUNA_ARENA | {"filter_kernel_size": 4},
    },
    "memory_transformer": {
        "tiny": {"memory_size": 8},
        "quickstart": {"memory_size": 8},
        # Every segment begins at position 0, which then needs a vector.
        "arena": {"segment_length": 500, "memory_filter": "conv", "cls_position": True},
    },
    "vanilla_transformer": {"quickstart": FILTERED},
}

#: The authors' notebooks of these runs are stored. Their [CLS] starts at zero.
NOTEBOOK: Fields = {"init_scheme": "authors_2021"}
#: Fields that the authors' run of a single task has.
EXCEPTIONS: dict[str, Fields] = {
    "simpletron/lra2022-listops": NOTEBOOK,
    "simpletron/lra2022-retrieval": NOTEBOOK | {"num_attention_heads": 8},
    "kernel_transformer/lra2022-text": {"normalizer_eps": 0},
    "kernel_transformer/lra2022-listops": NOTEBOOK | {"normalizer_eps": 0, "orthogonality_penalty": 0},
    "kernel_transformer/lra2022-retrieval": NOTEBOOK
    | {"normalizer_eps": 0, "orthogonality_penalty": 0, "num_attention_heads": 8},
}

#: Preset -> the fields in which the authors' code differs from its paper. The code also never masks padding, so train
#: these presets without attention masks.
AUTHORS: dict[str, Fields] = {
    # The penalty is counted for queries and for keys.
    "kernel_transformer/lra2022-text": {"orthogonality_penalty": 0.02},
    # The temperature of unpacking is passed as another argument, so it is always 1.
    **{f"convluna/lra2024-{task}": {"unpack_temperature": "unit"} for task in TASKS},
}

#: What the name of a setup begins with -> where its fields come from.
SOURCES = {
    "tiny": "for trials",
    "quickstart": "for the quickstart",
    "base": "the size of BERT-base",
    "lra2022": "the authors' code of arXiv 2111.15588 and 2211.04076",
    "lra2024": "the authors' code of arXiv 2404.00798",
    "authors": "as lra, with the code's departures from its paper",
}


@dataclass(frozen=True)
class Preset:
    """A named config.

    Attributes:
        model_type: its family.
        setup: what it is for, such as ``"tiny"`` or ``"lra2022-text"``.
        fields: the fields of its config that are not defaults, without the ``model_type``.
    """

    model_type: str
    setup: str
    fields: Fields

    @property
    def name(self) -> str:
        """What `find_preset` and ``--model_config`` call it."""
        return f"{self.model_type}/{self.setup}"

    @property
    def size(self) -> str:
        """Layers, width, heads and positions, for tables."""
        layers, width = self.fields["num_hidden_layers"], self.fields["hidden_size"]
        heads, positions = self.fields["num_attention_heads"], self.fields["max_position_embeddings"]
        return f"{layers} layers × {width}, {heads} heads, {positions:,} positions"

    @property
    def source(self) -> str:
        """Where the fields come from."""
        return SOURCES[self.setup.split("-")[0]]

    def config(self, **options: Any) -> EffAttnConfig:
        """A new config with these fields; `options` replace some of them, or set others.

        Labels in `options` also replace the number of labels that the preset sets.

        Raises:
            TypeError: an unknown field, or a value of a wrong type.
            ValueError: values that clash.
        """
        (config_class,) = (family.config_class for family in list_families() if family.model_type == self.model_type)
        replaced = {"num_labels"} if "id2label" in options else set()
        kept = {name: value for name, value in self.fields.items() if name not in replaced}
        return config_class(**copy.deepcopy(kept | options))


def preset(model_type: str, setup: str, **options: Any) -> EffAttnConfig:
    """A new config of a family in one of its setups.

    >>> hf_effattn.preset("simpletron", "lra2022-text", hidden_dropout_prob=0.0)

    Args:
        model_type: the family.
        setup: such as ``"tiny"`` or ``"lra2022-text"``; `list_presets` lists them.
        **options: fields of the config that replace those of the preset, or that it does not set.

    Raises:
        TypeError: an unknown field, or a value of a wrong type.
        ValueError: an unknown preset, or values that clash.
    """
    return find_preset(f"{model_type}/{setup}").config(**options)


def list_presets() -> tuple[Preset, ...]:
    """Every preset; a family without an entry in `FAMILIES` has none."""
    return tuple(_presets().values())


def find_preset(name: str) -> Preset:
    """The preset that is called ``<model_type>/<setup>``.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    presets = _presets()
    if name not in presets:
        family, _, setup = name.partition("/")
        (family,) = difflib.get_close_matches(family.lower(), FAMILIES, n=1, cutoff=0)
        setups = [entry.setup for entry in presets.values() if entry.model_type == family]
        near = ", ".join(f"{family}/{other}" for other in difflib.get_close_matches(setup, setups, n=3, cutoff=0))
        raise ValueError(f"there is no preset {name!r}; the nearest are {near}, and `hf-effattn presets` lists all")
    return presets[name]


def _presets() -> dict[str, Preset]:
    """Name -> preset, in the order of the families and of the setups."""
    presets = [Preset(family, setup, _fields(family, setup)) for family in FAMILIES for setup in SETUPS]
    for name, fields in AUTHORS.items():
        family, _, task = name.replace("/", "-").split("-")
        presets.append(Preset(family, f"authors-{task}", _fields(*name.split("/")) | fields))
    return {entry.name: entry for entry in presets}


def _fields(model_type: str, setup: str) -> Fields:
    """The fields of a family in one of the `SETUPS`."""
    own = FAMILIES[model_type]
    fields = SETUPS[setup] | own.get("all", {}) | own.get(setup, {})
    if "-" in setup:
        inside = "kernel_dropout_prob" if model_type == "kernel_transformer" else "attention_probs_dropout_prob"
        fields |= TASKS[setup.split("-")[1]] | own.get("arena", {}) | {inside: fields["hidden_dropout_prob"]}
    return copy.deepcopy(fields | EXCEPTIONS.get(f"{model_type}/{setup}", {}))
