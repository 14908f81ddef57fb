"""From the library's parameters, or their gradients, to those of the authors' classifiers."""

import torch

from tests.authors.classifiers import Design
from tests.authors.equations import Theta


#: The library's name of a part of a block -> the authors'.
BLOCK = {
    "attention_norm": "norm_attention",
    "mlp_norm": "norm_feed_forward",
    "memory_norm": "norm_memory",
    "mlp.up": "feed_forward.up",
    "mlp.down": "feed_forward.down",
}


def translate(design: Design, ours: Theta) -> tuple[Theta, torch.Tensor]:
    """The authors' parameters, and the rows of the library's token table that no text of theirs reads.

    The library's [CLS] is the token with id 1. Byte texts have two more ids than the authors', [SEP] and [MASK].
    """
    theta: Theta = {}
    unread = torch.zeros(0, design.hidden)
    for name, tensor in ours.items():
        if name == "model.embeddings.tokens.weight":
            rest = len(tensor) - design.vocabulary + 1
            theta["cls"], unread = tensor[1], tensor[2:rest]
            theta["tokens"] = torch.cat([tensor[:1], tensor[rest:]])
        elif name == "model.embeddings.pixels.weight":
            theta["pixel.weight"] = tensor[:, 0]
        else:
            theta[_name(name, design)] = tensor
    return theta, unread


def _name(name: str, design: Design) -> str:
    whole = {
        "model.embeddings.positions.weight": "positions",
        "model.embeddings.pixels.bias": "pixel.bias",
        "model.embeddings.cls": "cls",
        "model.memory.cells": "memory",
    }
    if name in whole:
        return whole[name]
    name, kind = name.rsplit(".", 1)
    if name == "model.norm":
        return f"head.norm.{kind}"
    if name.startswith("classifier."):
        return f"head.{name.removeprefix('classifier.').removeprefix('hidden.')}.{kind}"
    index, part = name.removeprefix("model.layers.").split(".", 1)
    if part in BLOCK:
        return f"{index}.{BLOCK[part]}.{kind}"
    return f"{index}.attention.{_attention(part.removeprefix('attention').removeprefix('.'), kind)}"


def _attention(part: str, kind: str) -> str:
    if part == "feature_map":
        kind, layer = kind.rsplit("_", 1)
        return f"kernel.{layer}.{kind}"
    if part == "filter":
        return "taps"
    return f"{part.removeprefix('projections.shared_')}.{kind}".removeprefix(".")


def token_ids(design: Design, sequence: torch.Tensor, table_size: int) -> torch.Tensor:
    """The library's ids of a sequence of the authors', with [CLS] in front."""
    shift = table_size - design.vocabulary
    return torch.cat([torch.tensor([1]), torch.where(sequence > 0, sequence + shift, 0)])
