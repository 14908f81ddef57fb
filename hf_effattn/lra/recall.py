"""The `recall` task: multi-query associative recall (Arora et al. 2023, *Zoology*, arXiv 2312.04927, section 4).

A sequence begins with pairs of a key and its value, every key once: ``[CLS] k1 v1 k2 v2 …``. Then every key occurs
once more, as a query, among filler tokens. At each query the model has to give the value of that key. As in the paper,
queries come soon more often than late: the gap between a query and the end of the pairs follows a power law.

This is not a task of Long Range Arena. It tells variants of attention apart within minutes: a model without recall can
only guess the most frequent value of a sequence. Key and value lie side by side, so a filter of two tokens joins them.

`recall_small` has shorter sequences, which small models learn on a CPU within minutes.

Source: ``"generated"``, always the same. Columns: ``input_ids``, and ``labels`` with -100 at all tokens but queries.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import DatasetDict, Features, Sequence, Value

from ..data.collate import IGNORED
from .checksums import verified
from .generated import generated


SOURCES = ("generated",)

#: Ids of the special tokens. The ids of the keys follow, then those of the values.
PADDING, CLS, FILLER = 0, 1, 2
FIRST_KEY = 3


@dataclass(frozen=True)
class Parameters:
    """The sizes of the sequences.

    Attributes:
        pairs: the number of pairs of key and value in a sequence, which is also the number of queries.
        keys: the number of different keys.
        values: the number of different values, which are the classes.
        length: the number of tokens in a sequence.
        power: a gap `g` has the weight ``g ** (power - 1)``: the smaller `power`, the shorter the gaps.
    """

    pairs: int = 16
    keys: int = 64
    values: int = 64
    length: int = 128
    power: float = 0.01

    def __post_init__(self) -> None:
        if self.pairs > self.keys:
            raise ValueError(f"{self.pairs} pairs need as many different keys, but there are {self.keys}")
        if 1 + 3 * self.pairs > self.length:
            needed = 1 + 3 * self.pairs
            raise ValueError(f"[CLS], {self.pairs} pairs and their queries need {needed} tokens, got {self.length}")

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return FIRST_KEY + self.keys + self.values


#: The sequences of each task.
TASKS = {"recall": Parameters(), "recall_small": Parameters(pairs=8, keys=16, values=16, length=64)}
#: Raise this number whenever the same arguments give other sequences; the cache then makes them anew.
VERSION = 1
SPLIT_SIZES = {"train": 20_000, "validation": 1_000, "test": 2_000}

#: SHA-256 of the splits (`content_checksum`), by task.
CHECKSUMS = {
    "recall": {
        "train": "bf543029df8474032791f8a19aa4edcaffc6a6c6f31e39c6d3610fbc7bd2a949",
        "validation": "df7fbfc5a1eed91065b4b977d09a51291c5a147928ba20723f3da3edc934db59",
        "test": "ec792488209481a3298e3333fce29c83bacaabc8e40cf1b03483bc8eb98bb256",
    },
    "recall_small": {
        "train": "3b81fa0e246579de0c4658d7fc933c36767304c6228b69e1ee0dad26b3e1d886",
        "validation": "698e76283985ccf9330beee9a729bae9dc8c124ffaa9916643401298da0a6ff8",
        "test": "45f3477c482d91787af2d99c37543c5b4fd37c257d61d42fb0522bf10b7b7f6e",
    },
}


def load_recall(source: str = "generated", task: str = "recall") -> DatasetDict:
    """Load the splits ``train``, ``validation`` and ``test``.

    Raises:
        ValueError: the source is unknown, or the splits do not have the checksums in `CHECKSUMS`.
    """
    if source != "generated":
        raise ValueError(f"unknown source {source!r}; choose from {SOURCES}")
    return verified(generate_recall(SPLIT_SIZES, TASKS[task]), CHECKSUMS[task])


def generate_recall(sizes: dict[str, int], parameters: Parameters, seed: int = 0) -> DatasetDict:
    """Generate splits of the given sizes; equal arguments give equal splits."""
    features = Features({"input_ids": Sequence(Value("int32")), "labels": Sequence(Value("int32"))})
    splits = {}
    for number, (name, size) in enumerate(sizes.items()):
        # The arguments hold no list: `datasets` would treat its entries as shards, and call the generator for each.
        arguments = {"size": size, "seed": seed, "split": number, "parameters": asdict(parameters)}
        splits[name] = generated("recall", VERSION, _rows, arguments, features)
    return DatasetDict(splits)


def _rows(size: int, seed: int, split: int, parameters: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng([seed, split])
    for _ in range(size):
        ids, labels = draw(rng, Parameters(**parameters))
        yield {"input_ids": ids, "labels": labels}


def draw(rng: np.random.Generator, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Draw a sequence and its labels, ``[length]`` each."""
    pairs, start = parameters.pairs, 1 + 2 * parameters.pairs
    keys = rng.permutation(parameters.keys)[:pairs]
    values = rng.integers(0, parameters.values, size=pairs)
    ids = np.full(parameters.length, FILLER)
    labels = np.full(parameters.length, IGNORED)
    ids[0] = CLS
    ids[1:start:2] = FIRST_KEY + keys
    ids[2:start:2] = FIRST_KEY + parameters.keys + values
    gaps = np.arange(1, parameters.length - start + 1)
    # Whole numbers, because the last bits of powers and sums of fractions differ between processors.
    weights = np.rint(1e9 * gaps ** (parameters.power - 1.0))
    places = start + rng.choice(len(gaps), size=pairs, replace=False, p=weights / weights.sum())
    ids[places] = FIRST_KEY + keys
    labels[places] = values
    return ids, labels
