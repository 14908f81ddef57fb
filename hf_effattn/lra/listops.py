"""The `listops` task: the value of a nested expression of MIN, MAX, MED and SM over digits (ten classes).

Expressions are drawn from the distribution of Long Range Arena's generator (Tay et al. 2020, arXiv 2011.04006, after
Nangia & Bowman 2018):

- A node is an operator with probability 1/4, otherwise a digit. On level `max_depth` all nodes are digits.
- The four operators are equally likely. An operator has 2 to `max_args` arguments. MED is the median, rounded down; SM
  is the sum modulo 10.
- New trees with ``min_length < length < max_length`` are kept. The length counts operators, closing brackets and
  digits.

Few trees are long enough. So trees are first drawn as numbers of nodes per level, a batch at a time, and only the
trees that are kept are written out. The distribution stays the same: given these numbers, all choices of the nodes
that are operators are equally likely.

`listops_short` is not a task of Long Range Arena. It has shorter expressions, which small models learn on a CPU within
minutes.

Sources: ``"generated"`` (96,000 training, 2,000 validation and 2,000 test expressions, always the same), or the folder
with the official ``basic_{train,val,test}.tsv``. A word of the text is a token. Round brackets are dropped from the
official files, as the official tokenizer does.
"""

import os
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np
from datasets import ClassLabel, DatasetDict, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import TokenizersBackend

from ..files import sha256
from .checksums import verified
from .generated import cut_into_splits, generated
from .official_files import class_id, read_tsv


LABELS = tuple(str(digit) for digit in range(10))
SOURCES = ("generated",)
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSE = "]"
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[UNK]")
#: All tokens in the order of their ids. This order never changes.
VOCABULARY = (*SPECIAL_TOKENS, CLOSE, *LABELS, *OPERATORS)

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})

#: SHA-256 of the texts and labels of the generated splits (`content_checksum`), by task.
CHECKSUMS = {
    "listops": {
        "train": "8e6dfd296cfc71518250fe87517fb8ad8e6bb3a4816a28c3d538e54dc00cf820",
        "validation": "c1e0cbf34b00a841b275090e78267f0ebbd7e86e6f868bd80d3fbdc4cccbe595",
        "test": "52c8b36ad8417af234b3aab0610909db93ab5e8b65183f5b6cf0ccd1ae9318a1",
    },
    "listops_short": {
        "train": "67f313c2f9ff45aef628b1c3babc1d20aad4ef5b34d1d530361760ad2f1a8cd6",
        "validation": "6ab77b60786c2ec5cda6181b3ce5dd8dc0fa1cd9200681ae34ed87a6ba21f428",
        "test": "7c59e2c41efdc61693e424e04923409650d63962d562c3a0fd2d0fa5041aba5a",
    },
}
#: Raise this number whenever the same arguments give other expressions; the cache then makes them anew.
VERSION = 2
SPLIT_SIZES = {"train": 96_000, "validation": 2_000, "test": 2_000}
#: How many trees are drawn at once.
BATCH = 16_000
#: How many expressions one seed gives. Such shards are drawn in parallel.
SHARD = 1_000


@dataclass(frozen=True)
class Distribution:
    """The distribution of the expressions; the defaults are those of Long Range Arena."""

    min_length: int = 500
    max_length: int = 2000
    max_depth: int = 10
    max_args: int = 10
    operator_probability: float = 0.25


#: The distribution of each task.
DISTRIBUTIONS = {
    "listops": Distribution(),
    "listops_short": Distribution(min_length=16, max_length=128, max_depth=6, max_args=5),
}


def load_listops(source: str = "generated", task: str = "listops") -> DatasetDict:
    """Load the splits ``train``, ``validation`` and ``test`` with the columns ``text`` and ``label``.

    Raises:
        ValueError: the source is neither ``"generated"`` nor a folder with the official files, or an official file is
            damaged.
    """
    if source == "generated":
        return verified(generate_listops(SPLIT_SIZES, DISTRIBUTIONS[task]), CHECKSUMS[task])
    if task != "listops":
        raise ValueError(f"unknown source {source!r}; {task} can only be 'generated'")
    if Path(source).is_dir():
        return read_official(Path(source))
    raise ValueError(f"unknown source {source!r}; choose 'generated', or a folder with the official basic_*.tsv")


def generate_listops(
    sizes: dict[str, int], distribution: Distribution | None = None, seed: int = 0, num_proc: int | None = None
) -> DatasetDict:
    """Generate splits of the given sizes. No expression occurs twice; equal arguments give equal splits.

    Args:
        sizes: the number of expressions in each split.
        distribution: the distribution of the expressions, by default that of Long Range Arena.
        seed: another seed gives another benchmark.
        num_proc: the number of processes, by default one per core. The result does not depend on it.

    Raises:
        ValueError: the distribution has too few different expressions.
    """
    total = sum(sizes.values())
    # A tenth more than needed, because repeated expressions are left out. They occur among short expressions only.
    shards = -(-(total + total // 10) // SHARD)
    arguments = {
        "shards": list(range(shards)),
        "size": SHARD,
        "seed": seed,
        "distribution": asdict(distribution or Distribution()),
    }
    processes = min(num_proc or os.cpu_count() or 1, shards)
    rows = generated("listops", VERSION, _shards, arguments, FEATURES, processes)
    order = rows.to_pandas().drop_duplicates("text").index
    if len(order) < total:
        raise ValueError(f"only {len(order)} different expressions were drawn, {total} are needed: allow longer ones")
    return cut_into_splits(rows, order, sizes)


def _shards(shards: list[int], size: int, seed: int, distribution: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        expressions = draw(np.random.default_rng([seed, shard]), Distribution(**distribution))
        for _, (text, label) in zip(range(size), expressions, strict=False):
            if evaluate(text) != label:
                raise RuntimeError(f"the evaluators disagree on {text!r}: {evaluate(text)} and {label}")
            yield {"text": text, "label": label}


def draw(rng: np.random.Generator, distribution: Distribution) -> Iterator[tuple[str, int]]:
    """Yield expressions and their values without end."""
    while True:
        for levels in draw_shapes(rng, distribution, BATCH):
            yield write(rng, levels)


def draw_shapes(rng: np.random.Generator, distribution: Distribution, batch: int) -> Iterator[list[np.ndarray]]:
    """Draw `batch` trees, and yield the shapes of the trees that have an allowed length, in the order of the trees.

    A shape is a list of levels from the root down. A level is the number of arguments of each operator on it. Where
    the operators stand among the nodes of their level is drawn later.
    """
    nodes = np.ones(batch, dtype=np.int64)
    length = np.zeros(batch, dtype=np.int64)
    trees = np.arange(batch)
    levels: list[tuple[np.ndarray, np.ndarray]] = []
    kept: list[np.ndarray] = []
    for depth in range(1, distribution.max_depth + 1):
        deepest = depth == distribution.max_depth
        operators = np.zeros_like(nodes) if deepest else rng.binomial(nodes, distribution.operator_probability)
        arguments = rng.integers(2, distribution.max_args + 1, size=operators.sum())
        owner = np.repeat(np.arange(len(nodes)), operators)
        length += nodes + operators
        children = np.bincount(owner, weights=arguments, minlength=len(nodes)).astype(np.int64)
        levels.append((np.repeat(trees, operators), arguments))
        # A tree without a next level is complete. A tree that is already too long is dropped.
        growing = (children > 0) & (length < distribution.max_length)
        complete = (children == 0) & (length > distribution.min_length) & (length < distribution.max_length)
        kept.append(trees[complete])
        nodes, length, trees = children[growing], length[growing], trees[growing]
    # Shallow trees are complete first. In that order, the first trees would be too shallow on average.
    for tree in np.sort(np.concatenate(kept)):
        bounds = [np.searchsorted(owners, [tree, tree + 1]) for owners, _ in levels]
        of_tree = [values[low:high] for (low, high), (_, values) in zip(bounds, levels, strict=True)]
        yield [level for level in of_tree if len(level)]


def write(rng: np.random.Generator, levels: list[np.ndarray]) -> tuple[str, int]:
    """Write a tree of the given shape as an expression, and compute its value.

    The tree is filled from the deepest level up. The value is computed from the tree and not from the text.
    """
    below: list[tuple[str, int]] = []
    for depth in range(len(levels), -1, -1):
        operators = levels[depth] if depth < len(levels) else np.empty(0, dtype=np.int64)
        width = int(levels[depth - 1].sum()) if depth > 0 else 1
        digits = rng.integers(0, 10, size=width - len(operators))
        level: list[tuple[str, int]] = [(str(digit), int(digit)) for digit in digits]
        names = rng.integers(0, len(OPERATORS), size=len(operators))
        start = 0
        for name, count in zip(names, operators, strict=True):
            arguments = below[start : start + count]
            start += count
            operator = OPERATORS[name]
            text = " ".join([operator, *(text for text, _ in arguments), CLOSE])
            level.append((text, apply(operator, [value for _, value in arguments])))
        below = [level[index] for index in rng.permutation(width)]
    return below[0]


def apply(operator: str, values: list[int]) -> int:
    """Apply an operator to digits."""
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[MED":
        return int(statistics.median(values))
    return sum(values) % 10


def evaluate(text: str) -> int:
    """Compute the value of an expression from its text, with a stack.

    Round brackets are skipped, and ``X`` may stand for ``]``.

    Raises:
        ValueError: the text is not one whole expression.
    """
    stack: list[list[Any]] = [[]]
    for token in text.split():
        if token in "()":
            continue
        if token in OPERATORS:
            stack.append([token])
        elif token in (CLOSE, "X"):
            operator, *values = stack.pop()
            if not stack or not values:
                raise ValueError(f"a bracket closes nothing in {shortened(text)}")
            ordered = sorted(values)
            middle = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) // 2
            results = {"[MIN": ordered[0], "[MAX": ordered[-1], "[MED": middle, "[SM": sum(values) % 10}
            stack[-1].append(results[operator])
        elif token in LABELS:
            stack[-1].append(int(token))
        else:
            raise ValueError(f"{token!r} is not a token of an expression, in {shortened(text)}")
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ValueError(f"not one whole expression: {shortened(text)}")
    return int(stack[0][0])


def read_official(folder: Path) -> DatasetDict:
    """Read the splits from the official files, and verify every label.

    The files are read once. Then the rows come from the cache (`generated`) as long as the files are the same.

    Raises:
        ValueError: a file is missing, too many of its rows are broken (`read_tsv`), or the target of a row is not the
            value of its source.
    """
    splits = {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        path = folder / f"basic_{name}.tsv"
        if not path.is_file():
            raise ValueError(f"{folder} has no {path.name}")
        arguments = {"path": str(path)}
        splits[split] = generated("listops-official", VERSION, _rows, arguments, FEATURES, content=sha256(path))
    return DatasetDict(splits)


def _rows(path: str) -> Iterator[dict[str, Any]]:
    for line, row in read_tsv(Path(path), 2, _parse, header=("Source", "Target")):
        if (value := row.pop("value")) != row["label"]:
            raise ValueError(f"{path}:{line}: the expression's value is {value}, not {row['label']}")
        yield row


def _parse(cells: list[str]) -> dict[str, Any]:
    source, target = cells
    text = " ".join(token for token in source.split() if token not in "()")
    return {"text": text, "label": class_id(target, len(LABELS)), "value": evaluate(text)}


def listops_tokenizer(model_max_length: int) -> TokenizersBackend:
    """Make a tokenizer with one token per word and ``[CLS]`` in front; it loads without custom code."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", vocabulary["[CLS]"])]
    )
    return TokenizersBackend(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        cls_token="[CLS]",
        unk_token="[UNK]",
        clean_up_tokenization_spaces=False,
    )
