"""Batches of single sequences and of pairs."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DataCollatorWithPadding


#: Makes a batch of rows.
Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]

#: Prefix of the fields of a pair's second sequence.
PAIR = "pair_"

#: Label of positions without a target; torch's losses ignore it.
IGNORED = -100


class PairCollator(DataCollatorWithPadding):
    """Pads the two sequences of a pair on their own, each side of a batch to its longest.

    The second one is in ``pair_input_ids`` and ``pair_attention_mask``, as `ForSequenceClassification` takes it.
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows with both sequences and a label."""
        first = [{name: row[name] for name in row if not name.startswith(PAIR)} for row in features]
        second = [{name[len(PAIR) :]: row[name] for name in row if name.startswith(PAIR)} for row in features]
        return dict(super().__call__(first)) | {PAIR + name: part for name, part in super().__call__(second).items()}
