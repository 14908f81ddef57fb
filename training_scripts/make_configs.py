"""Write modeling_configs/: every family in every size, from one table of sizes and one of the families' own options.

python training_scripts/make_configs.py

- ``tiny``, ``quickstart``, ``base``: for trials, for the quickstart, and the size of BERT-base.
- ``lra2022-<task>``: the authors' Long Range Arena of SimpleTRON (arXiv 2111.15588) and of the trained kernels
  (2211.04076), from their code at commit 0dd1215.
- ``lra2024-<task>``: that of ConvLuna (2404.00798), from their later code.
- ``authors-<task>``: what their code computes where it differs from its paper, see `AUTHORS`.

Sizes, skeleton, start and dropout of both arenas are those of their code, for the families that are not theirs too.
"""

import json
from pathlib import Path
from typing import Any

from hf_effattn.families import find, list_families


FOLDER = Path(__file__).parents[1] / "modeling_configs"

Fields = dict[str, Any]


def sizes(hidden: int, feed_forward: int, heads: int, layers: int, positions: int) -> Fields:
    """The sizes of an encoder."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": feed_forward,
        "max_position_embeddings": positions,
    }


def arena(*size: int, dropout: float = 0.1) -> Fields:
    """The authors' skeleton in a size: norms, dropout, [CLS] and the start of the weights."""
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


#: Sequences have a [CLS] in front, hence the one position more. Single sequences are normed once more for their head,
#: with hidden layers as wide as the MLP; those of pairs are not.
TASKS: dict[str, Fields] = {
    "text": {"num_labels": 2, "last_norm": True},
    # Padding, 15 tokens, [CLS] and an id for anything else.
    "listops": {"num_labels": 10, "vocab_size": 18, "last_norm": True},
    "retrieval": {"num_labels": 2, "pair_features": "concat", "last_norm": False},
    "image": {"num_labels": 10, "num_channels": 1, "last_norm": True, "classifier_hidden_size": [512, 512]},
    "pathfinder": {"num_labels": 2, "num_channels": 1, "last_norm": True, "classifier_hidden_size": [512, 512]},
}
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

#: Options of a family, and those that it has in the Long Range Arena beside them; none unless they stand here.
FAMILIES: dict[str, tuple[Fields, Fields]] = {
    "simpletron": ({}, {}),
    "kernel_transformer": ({"feature_map": "glu"}, {"num_kernel_layers": 2, "orthogonality_penalty": 0.01}),
    "luna": ({}, {"memory_size": 256, "memory_dropout_prob": 0.0}),
    "convluna": ({}, {"memory_size": 256, "memory_dropout_prob": 0.0, "filter_kernel_size": 4}),
    # Every segment begins at position 0, which then needs a vector.
    "memory_transformer": ({}, {"segment_length": 500, "memory_filter": "conv", "cls_position": True}),
    "vanilla_transformer": ({}, {}),
}
SMALL_MEMORY = {"luna": 16, "convluna": 16, "memory_transformer": 8}

#: The notebooks of these runs are stored. Their [CLS] starts at zero.
NOTEBOOK = {"init_scheme": "authors_2021"}
#: What the runs of one task had beside them.
RUNS: dict[str, Fields] = {
    "simpletron-lra2022-listops": NOTEBOOK,
    "simpletron-lra2022-retrieval": {**NOTEBOOK, "num_attention_heads": 8},
    "kernel_transformer-lra2022-text": {"normalizer_eps": 0},
    "kernel_transformer-lra2022-listops": {**NOTEBOOK, "normalizer_eps": 0, "orthogonality_penalty": 0},
    "kernel_transformer-lra2022-retrieval": {
        **NOTEBOOK,
        "normalizer_eps": 0,
        "orthogonality_penalty": 0,
        "num_attention_heads": 8,
    },
}

#: Where the authors' code leaves its paper. Beside this it never masks padding, so train it without attention masks.
AUTHORS: dict[str, Fields] = {
    # The penalty is counted for queries and for keys.
    "kernel_transformer-lra2022-text": {"orthogonality_penalty": 0.02},
    # The temperature of unpacking lands on another argument, so it is always 1.
    **{f"convluna-lra2024-{task}": {"unpack_temperature": "unit"} for task in TASKS},
}


def configs() -> dict[str, Fields]:
    """File name without its ending -> the fields of the config."""
    made: dict[str, Fields] = {}
    for model_type in [family.model_type for family in list_families()]:
        made |= {f"{model_type}-{setup}": config(model_type, setup) for setup in SETUPS}
    for name, fields in AUTHORS.items():
        family, _, task = name.split("-")
        made[f"{family}-authors-{task}"] = made[name] | fields
    return made


def config(family: str, setup: str) -> Fields:
    """The config of a family in one of the `SETUPS`."""
    options, arena_options = FAMILIES.get(family, ({}, {}))
    fields = {"model_type": family, **SETUPS[setup], **options}
    if family in SMALL_MEMORY and setup in ("tiny", "quickstart"):
        fields["memory_size"] = SMALL_MEMORY[family]
    if setup == "quickstart" and "key_value_filter" in find(family).config_class.__dataclass_fields__:
        fields["key_value_filter"] = "conv"
    if "-" not in setup:
        return fields
    fields |= TASKS[setup.split("-")[1]] | arena_options
    inside = "kernel_dropout_prob" if family == "kernel_transformer" else "attention_probs_dropout_prob"
    fields[inside] = fields["hidden_dropout_prob"]
    return fields | RUNS.get(f"{family}-{setup}", {})


def main() -> None:
    """Write every file, and remove those that are no longer made."""
    made = configs()
    for path in FOLDER.glob("*.json"):
        if path.stem not in made:
            path.unlink()
    for name, fields in made.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(fields, indent=2) + "\n")


if __name__ == "__main__":
    main()
