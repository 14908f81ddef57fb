"""The `pathfinder` task: are two circles joined by a dashed path? Pictures are read pixel by pixel, in raster order.

This is a task of Long Range Arena (Tay et al. 2020, arXiv 2011.04006) after Linsley et al. (2018, arXiv 1805.08315).
Every picture has two long snakes of dashes and several short ones. One circle stands where a long snake begins. The
other circle stands where the same snake ends, or where the other long snake ends. So both classes have the same
drawings, and only the course of the snakes tells them apart. Pathfinder has pictures of 32 x 32 pixels, Path-X
pictures of 128 x 128. The parameters are the published ones; `pathfinder_drawing` lays out the snakes.

The published generator does not compare a new paddle with the last paddle of the other long snake, so the two snakes
can touch or cross. Here no two snakes do. The places of the circles tell something about the label. Their distance
predicts 63 % of the labels of easy pictures, 53 % of intermediate and 52 % of hard ones. With all four coordinates, a
forest of decision trees predicts some 65 % of easy and 60 % of hard ones.

Sources:

- ``"generated"``: 160,000 training, 20,000 validation and 20,000 test pictures, always the same; half of each split is
  connected.
- The folder of the official files: ``pathfinder32/curv_contour_length_14`` and so on, each with lists in ``metadata``
  and the pictures that the lists name. In the order of the lists, the first 80 % are for training, the next 10 % for
  validation, the rest for testing. Long Range Arena has the same shares in another order. Empty files, of which the
  official data has at least one, are left out as in Long Range Arena, and count as damaged.
"""

import hashlib
import io
import math
import os
import tokenize
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features
from PIL import Image
from transformers.utils import logging

from .checksums import verified
from .generated import cut_into_splits, generated
from .official_files import read_at_most, report_broken_rows
from .pathfinder_drawing import Parameters, draw, is_connected, lay_out, mark


logger = logging.get_logger(__name__)

LABELS = ("unconnected", "connected")
SOURCES = ("generated",)
SIZES = (32, 128)
#: The number of paddles in a long snake, and the official folder.
DIFFICULTIES = {
    "easy": (6, "curv_baseline"),
    "intermediate": (9, "curv_contour_length_9"),
    "hard": (14, "curv_contour_length_14"),
}
#: Raise this number whenever the same arguments give other pictures; the cache then makes them anew.
VERSION = 1
SPLIT_SIZES = {"train": 160_000, "validation": 20_000, "test": 20_000}

#: SHA-256 of generated splits (`content_checksum`), for the sizes and difficulties that are recorded.
CHECKSUMS = {
    (32, "hard"): {
        "train": "93bad3f8251cb56c87dca6d6d935fa2619593e50a5454b91ba59c61093c05b40",
        "validation": "d7e3973261a37497bb850556ebd4017bbf026ef8d67d064efb86ee2b42589e33",
        "test": "0ead5eb97420b71713a013a6481892ead878dc56297e2791a47ab5fecdc48d93",
    }
}
#: How many pictures one seed gives. The number is even, so that half of every shard is connected.
SHARD = 1_000

#: Shares of the official pictures, in the order of the lists.
OFFICIAL_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
#: The share of official rows that may be damaged.
MAX_BROKEN = 0.01
#: The columns of an official list that are read: folder, file name and label.
FOLDER, NAME, LABEL = 0, 1, 3
#: Bytes of the longest list that is read. A list of all official pictures would have some 330 million bytes.
MAX_LIST = 2**29


def published(size: int = 32, difficulty: str = "hard") -> Parameters:
    """Return the parameters of Long Range Arena.

    Long Range Arena publishes the parameters of hard pictures. For the other difficulties, the length of short snakes
    follows from that of long ones by the same rule.

    Raises:
        ValueError: the size or the difficulty does not exist.
    """
    if size not in SIZES or difficulty not in DIFFICULTIES:
        raise ValueError(
            f"there are no pictures of size {size!r} and difficulty {difficulty!r}; "
            f"choose from {SIZES} and {tuple(DIFFICULTIES)}"
        )
    contour_length, _ = DIFFICULTIES[difficulty]
    distractor_length = contour_length // 3
    if size == 32:
        return Parameters(
            size=32,
            contour_length=contour_length,
            distractor_length=distractor_length,
            distractors=20 // distractor_length,
            margins=(1,),
            paddle_length=2,
            paddle_thickness=0.5,
            padding=1,
            seed_distance=7,
            marker_radius=1.5,
            continuity=1.0,
            snake_contrast=2.0,
            paddle_contrast=0.75,
        )
    return Parameters(
        size=128,
        contour_length=contour_length,
        distractor_length=distractor_length,
        distractors=35 // distractor_length,
        margins=(2, 3),
        paddle_length=5,
        paddle_thickness=1.5,
        padding=1,
        seed_distance=20,
        marker_radius=3.0,
        continuity=1.8,
        snake_contrast=0.9,
        paddle_contrast=1.0,
    )


def load_pathfinder(source: str = "generated", size: int = 32, difficulty: str = "hard") -> DatasetDict:
    """Load the splits ``train``, ``validation`` and ``test`` with the columns ``image`` and ``label``.

    Raises:
        ValueError: the source is neither ``"generated"`` nor a folder with the official files, the size or difficulty
            does not exist, or a file is damaged.
    """
    parameters = published(size, difficulty)
    if source == "generated":
        if (size, difficulty) not in CHECKSUMS:
            logger.warning(
                f"no checksums are recorded for {difficulty} pictures of {size} x {size}, so they are not verified"
            )
        return verified(generate_pathfinder(SPLIT_SIZES, parameters), CHECKSUMS.get((size, difficulty), {}))
    if not Path(source).is_dir():
        raise ValueError(
            f"unknown source {source!r}; choose 'generated', or a folder with the official pathfinder{size}"
        )
    _, name = DIFFICULTIES[difficulty]
    folders = [Path(source) / f"pathfinder{size}" / name, Path(source) / name]
    for folder in folders:
        if (folder / "metadata").is_dir():
            return split_official(read_official(folder, size))
    raise ValueError(f"{source} has no {folders[0].relative_to(source)} and no {name}, with a folder metadata")


def generate_pathfinder(
    sizes: dict[str, int], parameters: Parameters, seed: int = 0, num_proc: int | None = None
) -> DatasetDict:
    """Generate splits of the given sizes. Half of each split is connected; equal arguments give equal splits.

    Args:
        sizes: the number of pictures in each split.
        parameters: what the pictures look like.
        seed: another seed gives another benchmark.
        num_proc: the number of processes, by default one per core. The result does not depend on it.
    """
    shards = [
        (split, start // SHARD, min(SHARD, count - start))
        for split, count in enumerate(sizes.values())
        for start in range(0, count, SHARD)
    ]
    arguments = {"shards": shards, "seed": seed, "parameters": asdict(parameters)}
    processes = min(num_proc or os.cpu_count() or 1, len(shards))
    rows = generated("pathfinder", VERSION, _shards, arguments, _features(parameters.size), processes)
    return cut_into_splits(rows, range(len(rows)), sizes)


def _shards(shards: list[tuple[int, int, int]], seed: int, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    drawn = Parameters(**parameters)
    for split, shard, count in shards:
        rng = np.random.default_rng([seed, split, shard])
        for label in rng.permutation(np.arange(count) % 2):
            layout = lay_out(rng, drawn)
            markers = mark(rng, layout, connected=bool(label))
            if is_connected(layout, markers) != label:
                raise RuntimeError(f"circles at {markers} do not have the label {LABELS[label]}")
            yield {"image": draw(layout, markers), "label": int(label)}


def read_official(folder: Path, size: int) -> Dataset:
    """Read the pictures that the lists in ``metadata`` name, in the order of the lists.

    The pictures are read once. Then they come from the cache (`generated`), as long as the lists and the sizes and
    times of the picture files are the same.

    Raises:
        ValueError: there are no lists, a picture lies outside of the folder, a label is neither 0 nor 1, or more than
            `MAX_BROKEN` of the rows are damaged.
    """
    digest = hashlib.sha256()
    for place, row in _listed(folder):
        path = picture_path(folder, row, place)
        stamp = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
        digest.update(f"{place} {row} {stamp}\n".encode())
    arguments = {"folder": str(folder), "size": size}
    content = digest.hexdigest()
    return generated("pathfinder-official", VERSION, _official, arguments, _features(size), content=content)


def _listed(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of all lists, each with its file and line."""
    paths = sorted((folder / "metadata").glob("*.npy"), key=lambda path: (len(path.stem), path.stem))
    for path in paths:
        for line, row in enumerate(read_list(path), start=1):
            yield f"{path}:{line}", row


def _official(folder: str, size: int) -> Iterator[dict[str, Any]]:
    total, broken = 0, []
    for place, row in _listed(Path(folder)):
        total += 1
        path = picture_path(Path(folder), row, place)
        try:
            label = int(row[LABEL])
        except (IndexError, ValueError):
            broken.append(f"{place}: no folder, file and label in {' '.join(row)!r}")
            continue
        if label not in (0, 1):
            raise ValueError(f"{place}: the label is {label}, neither 0 nor 1")
        try:
            picture = read_picture(path, size)
        except (OSError, ValueError) as error:
            broken.append(f"{place}: {error}")
        else:
            yield {"image": picture, "label": label}
    report_broken_rows(folder, broken, total, MAX_BROKEN, "its lists are metadata/*.npy; get the files anew")


def picture_path(folder: Path, row: list[str], place: str) -> Path:
    """Return the path of the picture that a row names.

    Links in the folder are followed, because caches of downloads consist of links; a list cannot create any.

    Raises:
        ValueError: a name in the row leads out of the folder.
    """
    inside = Path(*row[FOLDER : NAME + 1])
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"{place}: the picture {str(inside)!r} lies outside of {folder}; get the lists anew")
    return folder / inside


def _features(size: int) -> Features:
    return Features({"image": Array2D((size, size), "uint8"), "label": ClassLabel(names=list(LABELS))})


def read_list(path: Path) -> list[list[str]]:
    """Read the rows of a list: a numpy array, as the generator saves it, or lines of text, as Long Range Arena does.

    Raises:
        ValueError: the file is neither of the two, or it has more than `MAX_LIST` bytes.
    """
    raw = read_at_most(path, MAX_LIST)
    try:
        if raw.startswith(np.lib.format.MAGIC_PREFIX):
            return [[str(value) for value in row] for row in _array(raw)]
        return [line.split(" ") for line in raw.decode().splitlines()]
    except (ValueError, TypeError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{path} is not a list of pictures: {error}") from error


def _array(raw: bytes) -> np.ndarray:
    """Read an array from the bytes of a numpy file, but only if the file is as long as its header says.

    numpy allocates what the header says before it reads the data, so a false header could take all memory.

    Raises:
        ValueError: the header does not fit the data, or the data are Python objects.
    """
    file = io.BytesIO(raw)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"it has version {version} of numpy's format; arrays of text have version 1.0 or 2.0")
    shape, _, kind = readers[version](file)
    # An array with rows but without cells needs no bytes, and may claim any number of rows.
    needed, found = math.prod(shape) * kind.itemsize, len(raw) - file.tell()
    if not kind.hasobject and (needed != found or (needed == 0 and shape[:1] != (0,))):
        raise ValueError(f"an array of {kind} of shape {shape} has {needed:,} bytes, but {found:,} follow")
    file.seek(0)
    array: np.ndarray = np.load(file)
    return array


def read_picture(path: Path, size: int) -> np.ndarray:
    """Read a PNG file as a grey picture, ``[size, size]`` in unsigned bytes.

    Raises:
        ValueError: the file is not a picture, or the picture has another size.
    """
    try:
        # Without `formats`, Pillow looks at the content of the file; for EPS content it starts Ghostscript.
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.size != (size, size):
                raise ValueError(f"{path} has {picture.height} x {picture.width} pixels, expected {size} x {size}")
            return np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a picture: {error}") from error


def split_official(rows: Dataset) -> DatasetDict:
    """Split the pictures by `OFFICIAL_SHARES`, in their order.

    Raises:
        ValueError: there are too few pictures.
    """
    ends = np.round(np.cumsum(list(OFFICIAL_SHARES.values())) * len(rows)).astype(int)
    starts = np.concatenate([[0], ends[:-1]])
    if not (starts < ends).all():
        raise ValueError(f"{len(rows)} pictures are too few for three splits")
    return DatasetDict(
        {name: rows.select(range(*part)) for name, *part in zip(OFFICIAL_SHARES, starts, ends, strict=True)}
    )
