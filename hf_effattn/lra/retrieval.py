"""The `retrieval` tasks: do two texts belong together? Each text is read by itself, byte by byte.

- `retrieval` reads the official pairs of Long Range Arena from a folder with ``new_aan_pairs.{train,eval,test}.tsv``.
  The texts are papers of the ACL Anthology Network: does one cite the other? The files may not be shipped, so the user
  names the folder.
- `retrieval_reviews` is another task, made from the film reviews of the `text` task: do two halves come from the same
  review? Its scores say nothing about the official pairs.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from ..data.checked_cache import checked_map
from ..files import sha256
from .checksums import verified
from .generated import generated
from .official_files import class_id, read_tsv
from .text import load_text


LABELS = ("different", "same")
SOURCES = ("<folder with new_aan_pairs.*.tsv>",)
#: Raise this number whenever the same official files give other rows; the cache then reads them anew.
VERSION = 1
FILES = {"train": "train", "validation": "eval", "test": "test"}

#: A part of the hashes that pair halves and cut reviews. Another value makes another benchmark.
PAIR_SEED = "hf_effattn retrieval 2"

#: How the reviews mark the ends of lines. An author uses such marks in both halves of a review or in none, so the
#: marks alone would predict the label of three in five pairs.
LINE_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)

#: SHA-256 of the splits that are made from the reviews of the package (`content_checksum`).
CHECKSUMS = {
    "train": "3ec0630b01d900f766a684eb75b461326904129b5d2d7d8d4c559bbce093fa34",
    "validation": "269a9f32a7403575352e7edbdbbce05cd962ca57887bab7cfe1e1236600a113f",
    "test": "f166d8d9afc363e996692bb14e417e19a10b6e824302af02161fb2e1dcae05cc",
}

FEATURES = Features({"text": Value("string"), "pair_text": Value("string"), "label": ClassLabel(names=list(LABELS))})


def load_retrieval(source: str) -> DatasetDict:
    """Load the official pairs, with the columns ``text``, ``pair_text`` and ``label``.

    Raises:
        ValueError: `source` is not a folder with the three files, or one of them has too many broken rows.
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
    """Read an official file. A row holds label, two ids and two texts, with tabs between them; there is no header.

    The file is read once. Then the rows come from the cache (`generated`) as long as the file is the same.

    Raises:
        ValueError: too many rows are broken (`read_tsv`).
    """
    return generated("retrieval", VERSION, _rows, {"path": str(path)}, FEATURES, content=sha256(path))


def _rows(path: str) -> Iterator[dict[str, Any]]:
    for _, row in read_tsv(Path(path), 5, _parse):
        yield row


def _parse(cells: list[str]) -> dict[str, Any]:
    label, _, _, text, pair_text = cells
    if not text or not pair_text:
        raise ValueError("a text is empty")
    return {"text": text, "pair_text": pair_text, "label": class_id(label, len(LABELS))}


def load_retrieval_reviews(source: str = "package") -> DatasetDict:
    """Make pairs of halves from the reviews of `load_text`, within its splits. Half of the pairs are one review.

    The marks of ends of lines are replaced by spaces, so only content and style tell halves apart. The best single
    sign is whether each half has the word "I": it is right for 56 % of the test pairs if halves are cut at 255 bytes
    (``training_scripts/arena/guesses.py``).

    Raises:
        ValueError: as `load_text`.
    """

    def without_line_breaks(text: str) -> dict[str, str]:
        return {"text": LINE_BREAKS.sub(" ", text)}

    splits = DatasetDict()
    for name, split in load_text(source).items():
        reviews = checked_map(split, without_line_breaks, input_columns="text")
        splits[name] = Dataset.from_list(list(pair_halves(reviews)), features=FEATURES)
    return verified(splits, CHECKSUMS if source == "package" else {})


def pair_halves(reviews: Dataset) -> Iterator[dict[str, Any]]:
    """Yield two pairs for every two reviews that have the same label and nearly the same length.

    If a label has an odd number of reviews, one couple of reviews differs in label and length. Both reviews of a
    couple are cut at the same share of their characters, and a hash decides whether their second halves change places.
    So every half occurs once, and neither a half alone nor the two lengths predict the label.
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
    """Cut a text into two parts, between two words, after about `share` of its characters."""
    place = text.rfind(" ", 0, round(share * len(text)) + 1)
    return (text[:place].strip(), text[place:].strip()) if place > 0 else ("", "")
