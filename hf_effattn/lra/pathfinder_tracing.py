"""The `pathfinder_tracing` task: which pixels are on the path that begins at the circle?

Its pictures are those of `pathfinder`, only smaller and without short snakes: two long snakes of dashes, at the
beginning of one of them a circle. Every pixel of either snake is asked whether it is on the circle's. As in
Pathfinder, a model has to follow a path over its gaps, but it gets an answer for each step of the way, so that small
models learn on a CPU within minutes; with the single label of Pathfinder they stay at chance much longer. It is no
task of Long Range Arena.

The commoner label is 53 % of them. How far a pixel is from the circle gives 65 %; where it is, and where the circle
is, 75 %, since snakes begin in the middle and keep out of each other's way.

Sources: ``"generated"``, always the same. Columns: ``input_ids``, the shades of the pixels in raster order plus one,
and ``labels``, with -100 for pixels that are on no snake and for those of the circle.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
from datasets import DatasetDict, Features, Sequence, Value

from .checksums import verified
from .collate import IGNORED
from .generated import generated
from .pathfinder_drawing import Layout, Parameters, circle_at, draw, ink, lay_out


LABELS = ("elsewhere", "on the path")
SOURCES = ("generated",)
#: What pictures look like.
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
#: Raised whenever the same arguments give other pictures, so that none of an earlier generator come from the cache.
VERSION = 1
SPLIT_SIZES = {"train": 60_000, "validation": 1_000, "test": 2_000}
#: SHA-256 of the splits (`content_checksum`).
CHECKSUMS = {
    "train": "2fb7ea2a1779d8c94326d6bc545d36f115cdd31b87b1a13ec9c519b74396515b",
    "validation": "4c3f5df6cd4179ada550f0d69ab88f0d0ea5423430ad7920dd7b581fd3639123",
    "test": "bc2aa0c1374987dbd256262a855f608d3bfd1d814a629c4370c0c6d99adc2d0f",
}
#: Pictures that one seed gives.
SHARD = 1_000


def load_tracing(source: str = "generated") -> DatasetDict:
    """The splits ``train``, ``validation`` and ``test``.

    Raises:
        ValueError: another source, or splits that are not those that `CHECKSUMS` identify.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; choose from {SOURCES}")
    return verified(generate_tracing(SPLIT_SIZES, PARAMETERS), CHECKSUMS)


def generate_tracing(
    sizes: dict[str, int], parameters: Parameters, seed: int = 0, num_proc: int | None = None
) -> DatasetDict:
    """Splits of the given sizes; the same arguments always give the same ones, with any number of processes."""
    features = Features({"input_ids": Sequence(Value("int32")), "labels": Sequence(Value("int32"))})
    splits = {}
    for number, (name, size) in enumerate(sizes.items()):
        shards = [(start // SHARD, min(SHARD, size - start)) for start in range(0, size, SHARD)]
        arguments = {"shards": shards, "seed": seed, "split": number, "parameters": asdict(parameters)}
        processes = min(num_proc or os.cpu_count() or 1, len(shards))
        splits[name] = generated("pathfinder_tracing", VERSION, _rows, arguments, features, processes)
    return DatasetDict(splits)


def _rows(shards: list[tuple[int, int]], seed: int, split: int, parameters: dict) -> Iterator[dict[str, np.ndarray]]:
    drawn = Parameters(**parameters)
    for shard, count in shards:
        rng = np.random.default_rng([seed, split, shard])
        for _ in range(count):
            layout = lay_out(rng, drawn)
            image, labels = trace(layout, int(rng.integers(2)))
            yield {"input_ids": image.ravel().astype(np.int32) + 1, "labels": labels.ravel()}


def trace(layout: Layout, marked: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture with a circle at the beginning of one long snake, and what its pixels answer.

    Args:
        layout: the snakes.
        marked: which of the two long ones has the circle.

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
