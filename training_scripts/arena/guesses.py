"""What guessing reaches on the arena's test rows: a table from the training rows, which says the commonest label.

    python -m training_scripts.arena.guesses

Writes ``guesses.json`` beside the results of the runs: the accuracy of the commonest label of all, and, on tasks with
an easy cue, of the commonest one for each value of the cue.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_effattn.data.checksums import content_checksum
from hf_effattn.data.collate import IGNORED
from hf_effattn.lra import get_task
from hf_effattn.lra.listops import OPERATORS
from hf_effattn.training.lra import use_rows
from training_scripts.arena.plan import PLAN, read_plan
from training_scripts.arena.results import RESULTS, write_measurements


GUESSES = RESULTS / "guesses.json"

#: The value of the cue for every label, ``[labels]``, of rows in numpy's format.
Cue = Callable[[dict[str, np.ndarray]], np.ndarray]


def nothing(rows: dict[str, np.ndarray]) -> np.ndarray:
    """No cue at all."""
    return np.zeros(len(labels_of(rows)), dtype=np.int64)


def first_operator(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The outermost operator of an expression of ListOps."""
    found = (next(word for word in text.split() if word in OPERATORS) for text in rows["text"])
    return np.array([OPERATORS.index(word) for word in found])


def first_persons(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Which of two texts, as far as their recipe reads them, have the word "I"."""
    found = [
        np.array([re.search(rb"\bI\b", text.encode()[:READ_BYTES]) is not None for text in rows[name]])
        for name in ("text", "pair_text")
    ]
    return 2 * found[0] + found[1]


def places(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Where a pixel is and where the circle, the brightest pixel, is."""
    pixels = np.asarray(rows["input_ids"])
    found = pixels.argmax(axis=1)[:, None] * pixels.shape[1] + np.arange(pixels.shape[1])
    return found[np.asarray(rows["labels"]) != IGNORED]


def commonest_value(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The value that most pairs of a sequence of recall have, the smallest of several, for every key asked for."""
    labels = np.asarray(rows["labels"])
    # Every key is asked for once, so the labels are the values of the pairs.
    counts = np.stack([(labels == value).sum(axis=1) for value in range(labels.max() + 1)], axis=1)
    return np.repeat(counts.argmax(axis=1), (labels != IGNORED).sum(axis=1))


#: Of either text, what the recipe of `retrieval_reviews` reads behind ``[CLS]``.
READ_BYTES = 255

#: Recipe -> its easy cue, where there is one.
CUES: dict[str, tuple[str, Cue]] = {
    "listops_short": ("the outermost operator", first_operator),
    "pathfinder_tracing": ("the places of pixel and circle", places),
    "retrieval_reviews": ("whether each half speaks of an I", first_persons),
    "recall_small": ("the value that is commonest in the sequence, whatever its key", commonest_value),
}


def labels_of(rows: dict[str, np.ndarray]) -> np.ndarray:
    """All labels that count, one after the other."""
    labels = np.asarray(rows["label"] if "label" in rows else rows["labels"]).ravel()
    return labels[labels != IGNORED]


def guess(train: Dataset, test: Dataset, cue: Cue) -> float:
    """The accuracy on `test` of the label that is commonest in `train` for the same value of the cue."""
    seen, asked = (
        {name: split.with_format("numpy")[:][name] for name in split.column_names} for split in (train, test)
    )
    values, found, labels = cue(seen), cue(asked), labels_of(seen)
    counts = np.zeros((max(values.max(), found.max()) + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(counts, (values, labels), 1)
    # For a value that training does not have, the commonest label of all.
    counts[counts.sum(axis=1) == 0] = counts.sum(axis=0)
    return float((counts.argmax(axis=1)[found] == labels_of(asked)).mean())


def guesses(recipe: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What guessing reaches on the task of a recipe, and the checksum of its test rows."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, help="another arena.yaml")
    parser.add_argument("--output", type=Path, default=GUESSES, help="file of the accuracies")
    options = parser.parse_args(arguments)
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
