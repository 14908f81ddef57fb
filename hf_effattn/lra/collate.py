"""Batches of pairs of sequences, of pictures, and of pictures as tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding


#: Makes a batch of rows.
Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]

#: What the fields of a pair's second sequence begin with.
PAIR = "pair_"
#: The label of what has none; torch's losses leave it out.
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


@dataclass(frozen=True)
class PixelCollator:
    """Grey pictures of one size as ``pixel_values [batch, 1, height, width]``, ``(x / 255 - mean) / deviation``."""

    mean: float
    deviation: float

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows with a picture and a label."""
        pictures = torch.from_numpy(np.asarray([row["image"] for row in features], dtype=np.uint8))
        pixels = (pictures.float() / 255 - self.mean) / self.deviation
        return {"pixel_values": pixels[:, None], "labels": torch.tensor([int(row["label"]) for row in features])}


#: Ids of the pixels of `PixelTokenCollator`: one for each of 256 shades, behind that of padding.
PIXEL_VOCABULARY = 257


class PixelTokenCollator:
    """Grey pictures as ``input_ids [batch, height * width]`` in raster order, the shade of a pixel plus one."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows with a picture and a label."""
        pictures = torch.from_numpy(np.asarray([row["image"] for row in features], dtype=np.int64))
        return {
            "input_ids": pictures.flatten(1) + 1,
            "attention_mask": torch.ones(len(features), pictures[0].numel(), dtype=torch.int64),
            "labels": torch.tensor([int(row["label"]) for row in features]),
        }
