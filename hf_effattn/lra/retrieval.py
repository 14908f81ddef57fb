"""The `retrieval` tasks: do two texts belong together? Both are read byte by byte, one by one.

- `retrieval` reads the official pairs of Long Range Arena (papers of the ACL Anthology Network: does one cite the
  other?) from a folder with ``new_aan_pairs.{train,eval,test}.tsv``. They cannot be shipped, so the folder has to be
  named.
- `retrieval_reviews` is made of the film reviews of the `text` task and is another task: do two halves come from the
  same review? Its scores say nothing about the official pairs.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ..data.checked_cache import checked_map
from ..files import sha256
from .checksums import verified
from .generated import generated
from .text import load_text
from .tsv import class_id, read_tsv


LABELS = ("different", "same")
SOURCES = ("<folder with new_aan_pairs.*.tsv>",)
#: Raised whenever the same official files give other rows, so that none of an earlier reader come from the cache.
VERSION = 1
FILES = {"train": "train", "validation": "eval", "test": "test"}

#: Goes into the hashes that pair halves and cut reviews. Another value is another benchmark.
PAIR_SEED = "hf_effattn retrieval 2"

#: How the reviews mark the ends of lines. An author has lines or has none, so that which halves hold such marks says
#: in three of five pairs whether they belong together.
LINE_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)

#: SHA-256 of the splits that are made of the package's reviews (`content_checksum`).
CHECKSUMS = {
    "train": "3ec0630b01d900f766a684eb75b461326904129b5d2d7d8d4c559bbce093fa34",
    "validation": "269a9f32a7403575352e7edbdbbce05cd962ca57887bab7cfe1e1236600a113f",
    "test": "f166d8d9afc363e996692bb14e417e19a10b6e824302af02161fb2e1dcae05cc",
}

FEATURES = Features({"text": Value("string"), "pair_text": Value("string"), "label": ClassLabel(names=list(LABELS))})


def load_retrieval(source: str) -> DatasetDict:
    """The official pairs, with the columns ``text``, ``pair_text`` and ``label``.

    Raises:
        ValueError: `source` is no folder with the three files, or one of them has too many broken rows.
    """
    folder = Path(source)
    missing = [name for name in FILES.values() if not (folder / f"new_aan_pairs.{name}.tsv").is_file()]
    if missing:
        raise ValueError(
            f"--source must be a folder with new_aan_pairs.train.tsv, .eval.tsv and .test.tsv of Long Range Arena; "
            f"{source!r} lacks {missing}. Without them, --task retrieval_reviews compares halves of film reviews."
        )
    return DatasetDict({split: read_pairs(folder / f"new_aan_pairs.{name}.tsv") for split, name in FILES.items()})


def read_pairs(path: Path) -> Dataset:
    """The rows of an official file: label, two ids, two texts, between tabs and without a header.

    They are read once and then taken from the cache (`generated`), as long as the file is the same.

    Raises:
        ValueError: too many of them are broken (`read_tsv`).
    """
    return generated("retrieval", VERSION, _rows, {"path": str(path)}, FEATURES, content=sha256(path))


def _rows(path: str) -> Iterator[dict]:
    for _, row in read_tsv(Path(path), 5, _parse):
        yield row


def _parse(cells: list[str]) -> dict:
    label, _, _, text, pair_text = cells
    if not text or not pair_text:
        raise ValueError("a text is empty")
    return {"text": text, "pair_text": pair_text, "label": class_id(label, len(LABELS))}


def load_retrieval_reviews(source: str = "package") -> DatasetDict:
    """Pairs of halves of the reviews of `load_text`, whose splits they keep; half of them from the same review.

    The marks of ends of lines are replaced by spaces. What is left to tell halves apart by is what they say and how:
    the best single sign, whether each of them has the word "I", is right for 56 % of the test pairs where both are
    cut at 255 bytes (``training_scripts/arena/guesses.py``).

    Raises:
        ValueError: as `load_text`.
    """

    def of_one_line(text: str) -> dict[str, str]:
        return {"text": LINE_BREAKS.sub(" ", text)}

    splits = DatasetDict()
    for name, split in load_text(source).items():
        reviews = checked_map(split, of_one_line, input_columns="text")
        splits[name] = Dataset.from_list(list(pair_halves(reviews)), features=FEATURES)
    return verified(splits, CHECKSUMS if source == "package" else {})


def pair_halves(reviews: Dataset) -> Iterator[dict]:
    """Two pairs for every two reviews that agree in their label and nearly in their length.

    (Where the labels are odd in number, one pair agrees in nothing.) Both reviews are cut at the same share of their
    characters, and a hash decides whether the second halves change places. So every half stands in the data once, and
    neither a half alone nor the two lengths say what the label is.
    """
    texts, labels = list(reviews["text"]), list(reviews["label"])
    by_length = sorted(range(len(texts)), key=lambda i: (labels[i], len(texts[i].encode()), texts[i]))
    pairs = []
    for first, second in zip(by_length[::2], by_length[1::2], strict=False):
        digest = hashlib.sha256(f"{PAIR_SEED}\0{texts[first]}\0{texts[second]}".encode()).digest()
        share = 0.4 + 0.2 * digest[0] / 255
        (a, b), (c, d) = cut(texts[first], share), cut(texts[second], share)
        if not all((a, b, c, d)):
            continue
        # Reviews that share a half cannot be told apart by the other one.
        same = 1 if a == c or b == d else digest[1] % 2
        pairs.append((digest, {"text": a, "pair_text": b if same else d, "label": same}))
        pairs.append((digest[::-1], {"text": c, "pair_text": d if same else b, "label": same}))
    for _, pair in sorted(pairs, key=lambda item: item[0]):
        yield pair


def cut(text: str, share: float) -> tuple[str, str]:
    """A text in two parts, between two words, after about `share` of its characters."""
    place = text.rfind(" ", 0, round(share * len(text)) + 1)
    return (text[:place].strip(), text[place:].strip()) if place > 0 else ("", "")
