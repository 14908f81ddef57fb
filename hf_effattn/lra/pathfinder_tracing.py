"""The `pathfinder_tracing` task: which pixels are on the path that begins at the circle?

The pictures are smaller pictures of `pathfinder` without short snakes. They have two long snakes of dashes, and a
circle at the beginning of one of them. For every pixel of a snake, the model says whether the pixel is on the snake
with the circle.

As in Pathfinder, a model has to follow a path over its gaps. But it gets a label for each step of the way, so small
models learn on a CPU within minutes. With the single label of Pathfinder they stay at chance much longer. This is not
a task of Long Range Arena.

The more frequent label makes up 53 %. The distance between pixel and circle predicts 65 % of the labels; the places of
both predict 76 %, because snakes begin in the middle and avoid one another.

Source: ``"generated"``, always the same. Columns: ``input_ids``, the shades of the pixels in raster order plus one,
and ``labels``, with -100 for the pixels of the circle and for pixels that are on no snake.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, Sequence, Value

from ..data.collate import IGNORED
from .checksums import verified
from .generated import cut_into_splits, generated
from .pathfinder_drawing import Layout, Parameters, circle_at, draw, ink, lay_out


LABELS = ("elsewhere", "on the path")
SOURCES = ("generated",)
#: The sizes of the pictures.
PARAMETERS = Parameters(
    size=14,
    contour_length=3,
    distractor_length=2,
    distractors=0,
    margins=(1,),
    paddle_length=1,
    paddle_thickness=0.5,
    padding=1,
    seed_distance=2,
    marker_radius=0.5,
    continuity=1.0,
    snake_contrast=0.5,
    paddle_contrast=1.0,
)
#: Raise this number whenever the same arguments give other pictures; the cache then makes them anew.
VERSION = 2
SPLIT_SIZES = {"train": 60_000, "validation": 1_000, "test": 2_000}
#: SHA-256 of the splits (`content_checksum`).
CHECKSUMS = {
    "train": "b325f7aa38546f787518338664b0bbf73ad717a5c1b9de12953d1347e9f96e18",
    "validation": "7ad34dc6ff4caa2cf7bdbe99958a0743d5899927d07b05aef08fc383a4ed5089",
    "test": "3233393c7992f77d769c6840b1112669cb4dbe1004bff7dda215c535f46ddff8",
}
#: How many pictures one seed gives.
SHARD = 1_000


def load_tracing(source: str = "generated") -> DatasetDict:
    """Load the splits ``train``, ``validation`` and ``test``.

    Raises:
        ValueError: the source is unknown, or the splits do not have the checksums in `CHECKSUMS`.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; choose from {SOURCES}")
    return verified(generate_tracing(SPLIT_SIZES, PARAMETERS), CHECKSUMS)


def generate_tracing(
    sizes: dict[str, int], parameters: Parameters, seed: int = 0, num_proc: int | None = None
) -> DatasetDict:
    """Generate splits of the given sizes. No two pictures agree in circle and labels; equal arguments, equal splits.

    Args:
        sizes: the number of pictures in each split.
        parameters: what the pictures look like.
        seed: another seed gives another benchmark.
        num_proc: the number of processes, by default one per core. The result does not depend on it.

    Raises:
        ValueError: there are too few different pictures.
    """
    total = sum(sizes.values())
    # A quarter more than needed: on a small board, every tenth picture repeats the snakes of another one.
    shards = -(-(total + total // 4) // SHARD)
    features = Features({"input_ids": Sequence(Value("int32")), "labels": Sequence(Value("int32"))})
    arguments = {"shards": list(range(shards)), "size": SHARD, "seed": seed, "parameters": asdict(parameters)}
    processes = min(num_proc or os.cpu_count() or 1, shards)
    rows = generated("pathfinder_tracing", VERSION, _rows, arguments, features, processes)
    order = _different(rows)
    if len(order) < total:
        raise ValueError(f"only {len(order)} different pictures were drawn, {total} are needed: allow larger ones")
    return cut_into_splits(rows, order, sizes)


def _rows(shards: list[int], size: int, seed: int, parameters: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    drawn = Parameters(**parameters)
    for shard in shards:
        rng = np.random.default_rng([seed, shard])
        for _ in range(size):
            layout = lay_out(rng, drawn)
            image, labels = trace(layout, int(rng.integers(2)))
            yield {"input_ids": image.ravel().astype(np.int32) + 1, "labels": labels.ravel()}


def _different(rows: Dataset) -> list[int]:
    """Return the first row for each pair of circle and labels; the shades of the dashes do not count."""
    columns = rows.with_format("numpy")[:]
    circles = np.stack(columns["input_ids"]).argmax(axis=1).astype(np.int32)
    keys = np.column_stack([circles, np.stack(columns["labels"])])
    rows_of_keys: np.ndarray = np.unique(keys, axis=0, return_index=True)[1]
    return [int(row) for row in np.sort(rows_of_keys)]


def trace(layout: Layout, marked: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture with a circle at the beginning of one long snake, and label its pixels.

    Args:
        layout: the snakes.
        marked: the index of the long snake that has the circle, 0 or 1.

    Returns:
        The picture, unsigned bytes ``[size, size]``, and the labels ``[size, size]``: 1 on the snake with the circle,
        0 on the other one, and -100 on neither, on short snakes and under the circle.
    """
    size = layout.parameters.size
    begin = layout.targets[marked][0].anchor
    labels = np.full((size, size), IGNORED, dtype=np.int32)
    for number, snake in enumerate(layout.targets):
        labels[ink([snake], size) > 0] = number == marked
    labels[circle_at(begin, size, layout.parameters.marker_radius) > 0] = IGNORED
    return draw(layout, (begin,)), labels
