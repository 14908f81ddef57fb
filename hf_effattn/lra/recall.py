"""The `recall` task: multi-query associative recall (Arora et al. 2023, *Zoology*, arXiv 2312.04927, section 4).

A sequence begins with pairs of a key and its value, every key once: ``[CLS] k1 v1 k2 v2 …``. Then every key comes
once more, as a query, among filler tokens; at each query the model has to give that key's value. As the authors have
it, queries come soon more often than late: the gap to the end of the pairs follows a power law. It is no task of Long
Range Arena; it tells variants of attention apart within minutes, because nothing but recall helps.

Sources: ``"generated"``, always the same. Columns: ``input_ids``, and ``labels`` with -100 wherever nothing is asked.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from datasets import Dataset, DatasetDict, Features, Sequence, Value

from .checksums import content_checksum


SOURCES = ("generated",)

#: Ids of the special tokens; those of the keys follow, then those of the values.
PADDING, CLS, FILLER = 0, 1, 2
FIRST_KEY = 3
#: What torch's losses leave out.
IGNORED = -100


@dataclass(frozen=True)
class Parameters:
    """What sequences look like.

    Attributes:
        pairs: pairs of key and value in a sequence, and so queries.
        keys: different keys.
        values: different values, the classes.
        length: tokens of a sequence.
        power: how strongly the gaps prefer to be short; a gap `g` has weight ``g ** (power - 1)``.
    """

    pairs: int = 16
    keys: int = 64
    values: int = 64
    length: int = 128
    power: float = 0.01

    def __post_init__(self) -> None:
        if self.pairs > self.keys:
            raise ValueError(f"{self.pairs} pairs need as many different keys, there are {self.keys}")
        if 1 + 3 * self.pairs > self.length:
            needed = 1 + 3 * self.pairs
            raise ValueError(f"[CLS], {self.pairs} pairs and their queries need {needed} tokens, got {self.length}")

    @property
    def vocab_size(self) -> int:
        """Ids that occur."""
        return FIRST_KEY + self.keys + self.values


PARAMETERS = Parameters()
LABELS = tuple(str(value) for value in range(PARAMETERS.values))
SPLIT_SIZES = {"train": 20_000, "validation": 1_000, "test": 2_000}

#: SHA-256 of the splits (`content_checksum`).
CHECKSUMS = {
    "train": "9d6e379619b58a218c8a2b1d2a7b74fd4a8afc4c8d56fb27108aa983f6ce9afc",
    "validation": "a27ed93893bbedd070e91e5f49ee816181c9def861f545d780d6e300d0c97c3d",
    "test": "cf1f20da6c2c26a0d34fdd6ebb26a21db164579f850f8a5361096610bcd8c252",
}


def load_recall(source: str = "generated") -> DatasetDict:
    """The splits ``train``, ``validation`` and ``test``.

    Raises:
        ValueError: another source, or splits that are not those that `CHECKSUMS` identify.
    """
    if source != "generated":
        raise ValueError(f"unknown source {source!r}; choose from {SOURCES}")
    splits = generate_recall(SPLIT_SIZES)
    for name, expected in CHECKSUMS.items():
        if (found := content_checksum(splits[name])) != expected:
            raise ValueError(
                f"the generated {name} split has SHA-256 {found}, expected {expected}: numpy's random numbers or this "
                "generator have changed, so scores would not compare. Install the numpy of constraints.txt."
            )
    return splits


def generate_recall(sizes: dict[str, int], parameters: Parameters = PARAMETERS, seed: int = 0) -> DatasetDict:
    """Splits of the given sizes; the same arguments always give the same ones."""
    features = Features({"input_ids": Sequence(Value("int32")), "labels": Sequence(Value("int32"))})
    splits = {}
    for number, (name, size) in enumerate(sizes.items()):
        # No list among the arguments: `datasets` would take its entries for shards, and call once for each.
        arguments = {"size": size, "seed": seed, "split": number, "parameters": asdict(parameters)}
        splits[name] = Dataset.from_generator(_rows, features=features, gen_kwargs=arguments)
    return DatasetDict(splits)


def _rows(size: int, seed: int, split: int, parameters: dict) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng([seed, split])
    for _ in range(size):
        ids, labels = draw(rng, Parameters(**parameters))
        yield {"input_ids": ids, "labels": labels}


def draw(rng: np.random.Generator, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """A sequence and its labels, ``[length]`` each."""
    pairs, start = parameters.pairs, 1 + 2 * parameters.pairs
    keys = rng.permutation(parameters.keys)[:pairs]
    values = rng.integers(0, parameters.values, size=pairs)
    ids = np.full(parameters.length, FILLER)
    labels = np.full(parameters.length, IGNORED)
    ids[0] = CLS
    ids[1:start:2] = FIRST_KEY + keys
    ids[2:start:2] = FIRST_KEY + parameters.keys + values
    gaps = np.arange(1, parameters.length - start + 1)
    weights = gaps ** (parameters.power - 1.0)
    places = start + rng.choice(len(gaps), size=pairs, replace=False, p=weights / weights.sum())
    ids[places] = FIRST_KEY + keys
    labels[places] = values
    return ids, labels
