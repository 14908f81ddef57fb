"""Write modeling_configs/: every family in every size, from one table of sizes and one of the families' own options.

python training_scripts/make_configs.py

- ``tiny``, ``quickstart``, ``base``: for trials, for the quickstart, and the size of BERT-base.
- ``lra2022-<task>``: the authors' Long Range Arena of SimpleTRON (arXiv 2111.15588) and of the trained kernels
  (2211.04076), from their code at commit 0dd1215.
- ``lra2024-<task>``: that of ConvLuna (2404.00798), from their later code.
- ``authors-text``: what their code computes where it differs from its paper, see `AUTHORS`.
"""

import json
from pathlib import Path
from typing import Any

import hf_effattn


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


#: Sequences have a [CLS] in front, hence the one position more.
TASKS: dict[str, Fields] = {
    "text": {"num_labels": 2},
    # Padding, 15 tokens, [CLS] and an id for anything else.
    "listops": {"num_labels": 10, "vocab_size": 18},
    "retrieval": {"num_labels": 2, "pair_features": "concat"},
    "image": {"num_labels": 10, "num_channels": 1},
    "pathfinder": {"num_labels": 2, "num_channels": 1},
}
DROPOUT = {"hidden_dropout_prob": 0.1}
SETUPS: dict[str, Fields] = {
    "tiny": sizes(32, 64, 2, 2, 256),
    "quickstart": {
        **sizes(64, 256, 4, 2, 512),
        "hidden_dropout_prob": 0.0,
        "initializer_range": 0.1,
        "pooling": "mean",
    },
    "base": sizes(768, 3072, 12, 12, 4096),
    "lra2022-text": {**sizes(256, 1024, 4, 4, 4001), **DROPOUT},
    "lra2022-listops": {**sizes(512, 2048, 8, 6, 2001), **DROPOUT},
    "lra2022-retrieval": {**sizes(128, 512, 4, 4, 4001), **DROPOUT},
    "lra2024-text": {**sizes(128, 512, 4, 4, 4001), **DROPOUT, "classifier_dropout": 0.0},
    "lra2024-listops": {**sizes(128, 512, 4, 6, 2001), **DROPOUT, "classifier_dropout": 0.0},
    "lra2024-retrieval": {**sizes(128, 512, 4, 6, 4001), **DROPOUT, "classifier_dropout": 0.0},
    "lra2024-image": {**sizes(128, 512, 4, 8, 1025), "hidden_dropout_prob": 0.0},
    "lra2024-pathfinder": {**sizes(128, 512, 4, 6, 1025), "hidden_dropout_prob": 0.0},
}

#: Options of a family, and those that it has in the Long Range Arena beside them.
FAMILIES: dict[str, tuple[Fields, Fields]] = {
    "simpletron": ({}, {}),
    "kernel_transformer": ({"feature_map": "glu"}, {"num_kernel_layers": 2, "orthogonality_penalty": 0.01}),
    "luna": ({}, {"memory_size": 256}),
    "convluna": ({}, {"memory_size": 256, "filter_kernel_size": 4}),
    "memory_transformer": ({}, {"segment_length": 500, "memory_filter": "conv"}),
    "vanilla_transformer": ({}, {}),
}
SMALL_MEMORY = {"luna": 16, "convluna": 16, "memory_transformer": 8}

#: Where the authors' code leaves its paper. Beside this it never masks padding, so train it without attention masks.
AUTHORS: dict[str, Fields] = {
    # No epsilon in the denominator; the penalty is counted for queries and for keys.
    "kernel_transformer": {"normalizer_eps": 0, "orthogonality_penalty": 0.02},
    # The temperature of unpacking lands on another argument, so it is always 1.
    "convluna": {"unpack_temperature": "unit"},
}


def configs() -> dict[str, Fields]:
    """File name without its ending -> the fields of the config."""
    made: dict[str, Fields] = {}
    for family in FAMILIES:
        made |= {f"{family}-{setup}": config(family, setup) for setup in SETUPS}
    for family, fields in AUTHORS.items():
        setup = "lra2022-text" if family == "kernel_transformer" else "lra2024-text"
        made[f"{family}-authors-text"] = config(family, setup) | fields
    return made


def config(family: str, setup: str) -> Fields:
    """The config of a family in one of the `SETUPS`."""
    options, arena_options = FAMILIES[family]
    fields = {"model_type": family, **SETUPS[setup], **options}
    config_class = next(entry.config_class for entry in hf_effattn.list_families() if entry.model_type == family)
    if family in SMALL_MEMORY and setup in ("tiny", "quickstart"):
        fields["memory_size"] = SMALL_MEMORY[family]
    if setup == "quickstart" and "key_value_filter" in config_class.__dataclass_fields__:
        fields["key_value_filter"] = "conv"
    if "-" not in setup:
        return fields
    fields |= arena_options | TASKS[setup.split("-")[1]]
    if setup == "lra2022-retrieval" and family == "kernel_transformer":
        fields["num_attention_heads"] = 8
    if fields["hidden_dropout_prob"]:
        inside = "kernel_dropout_prob" if family == "kernel_transformer" else "attention_probs_dropout_prob"
        fields[inside] = 0.1
    return fields


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
