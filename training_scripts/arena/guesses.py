"""Measure the accuracy of guesses on the arena's test rows: the commonest label of the training rows.

    python -m training_scripts.arena.guesses

The script writes ``guesses.json`` beside the results of the runs: the accuracy of the commonest of all labels, and, on
tasks with an easy cue, of the commonest label for each value of the cue.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset

from hf_effattn.data.checksums import content_checksum
from hf_effattn.data.collate import IGNORED
from hf_effattn.lra import get_task
from hf_effattn.lra.listops import OPERATORS
from hf_effattn.training.lra import use_rows
from training_scripts.arena.command_line import measuring_parser
from training_scripts.arena.plan import read_plan
from training_scripts.arena.results import RESULTS, write_measurements


GUESSES = RESULTS / "guesses.json"

#: A function from rows in numpy's format to the value of the cue for every label, ``[labels]``.
Cue = Callable[[dict[str, np.ndarray]], np.ndarray]


def nothing(rows: dict[str, np.ndarray]) -> np.ndarray:
    """No cue: the same value for every label."""
    return np.zeros(len(labels_of(rows)), dtype=np.int64)


def first_operator(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The outermost operator of an expression of ListOps."""
    found = (next(word for word in text.split() if word in OPERATORS) for text in rows["text"])
    return np.array([OPERATORS.index(word) for word in found])


def first_persons(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Which of two texts have the word "I" in the bytes that the recipe reads."""
    found = [
        np.array([re.search(rb"\bI\b", text.encode()[:READ_BYTES]) is not None for text in rows[name]])
        for name in ("text", "pair_text")
    ]
    which: np.ndarray = 2 * found[0] + found[1]
    return which


def places(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The places of a pixel and of the circle, which is the brightest pixel."""
    pixels = np.asarray(rows["input_ids"])
    both = pixels.argmax(axis=1)[:, None] * pixels.shape[1] + np.arange(pixels.shape[1])
    asked: np.ndarray = both[np.asarray(rows["labels"]) != IGNORED]
    return asked


def commonest_value(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The commonest value of a sequence of recall, the smallest of several, for every key that is asked for."""
    labels = np.asarray(rows["labels"])
    # Every key is asked for once, so the labels are the values of the pairs.
    counts = np.stack([(labels == value).sum(axis=1) for value in range(labels.max() + 1)], axis=1)
    return np.repeat(counts.argmax(axis=1), (labels != IGNORED).sum(axis=1))


#: Bytes of either text that the recipe of `retrieval_reviews` reads behind ``[CLS]``.
READ_BYTES = 255

#: Recipe -> its easy cue, if it has one.
CUES: dict[str, tuple[str, Cue]] = {
    "listops_short": ("the outermost operator", first_operator),
    "pathfinder_tracing": ("the places of pixel and circle", places),
    "retrieval_reviews": ("whether each half speaks of an I", first_persons),
    "recall_small": ("the value that is commonest in the sequence, whatever its key", commonest_value),
}


def labels_of(rows: dict[str, np.ndarray]) -> np.ndarray:
    """All labels that count, in one array."""
    labels: np.ndarray = np.asarray(rows["label"] if "label" in rows else rows["labels"]).ravel()
    counted: np.ndarray = labels[labels != IGNORED]
    return counted


def guess(train: Dataset, test: Dataset, cue: Cue) -> float:
    """The accuracy on `test` of guessing the label that is commonest in `train` for the same value of the cue."""
    seen, asked = (
        {name: split.with_format("numpy")[:][name] for name in split.column_names} for split in (train, test)
    )
    values, found, labels = cue(seen), cue(asked), labels_of(seen)
    counts = np.zeros((max(values.max(), found.max()) + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(counts, (values, labels), 1)
    # A value that the training rows do not have gets the commonest of all labels.
    counts[counts.sum(axis=1) == 0] = counts.sum(axis=0)
    return float((counts.argmax(axis=1)[found] == labels_of(asked)).mean())


def guesses(recipe: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The accuracy of guesses on the task of a recipe, and the checksum of its test rows."""
    splits = use_rows(get_task(arguments["task"]).load(arguments["source"]), {"test": arguments.get("test_rows")})
    kept = {"label", "labels"} | ({"text", "pair_text", "input_ids"} if recipe in CUES else set())
    train, test = (
        split.select_columns([name for name in split.column_names if name in kept])
        for split in (splits["train"], splits["test"])
    )
    name, cue = CUES.get(recipe, (None, None))
    return {
        "sha256": content_checksum(splits["test"]),
        "commonest": guess(train, test, nothing),
        "cue": name,
        "from_cue": None if cue is None else guess(train, test, cue),
    }


def main(arguments: list[str]) -> None:
    """Guess on every task of the plan."""
    options = measuring_parser(__doc__, GUESSES).parse_args(arguments)
    plan = read_plan(options.plan)
    found, missing = {}, []
    for recipe, task in plan.tasks.items():
        try:
            found[recipe] = guesses(recipe, task)
        except ValueError as error:
            missing.append(f"{recipe} is left out: {error}")
    write_measurements(options.output, found)
    if missing:
        sys.exit("\n".join(missing))


if __name__ == "__main__":
    main(sys.argv[1:])
