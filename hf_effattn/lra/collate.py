"""Batches of pictures, and of pictures as tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


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
