"""Checks that results can be true, and that they belong to the model of the card."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..hub.export import weight_checksums
from ..hub.loading import model_without_weights
from ..lra import LraTask
from ..models.configuration_effattn import EffAttnConfig
from ..training.results import RunResults, require
from .content import architecture


#: How far an end of an interval may be off by rounding.
ROUNDING = 1e-6


def check_run_of_a_task(results: RunResults) -> None:
    """Raise ValueError if the results are those of a script for data of the user's own."""
    if "task" not in results.arguments and {"train_file", "dataset"} & results.arguments.keys():
        raise ValueError(
            "these are results on data of your own: a card says what the data is, where it comes from and what its "
            "labels mean, and the results tell nothing of that; write README.md by hand, push takes any card"
        )


def check_task(task: LraTask, auto_classes: list[str], labels: list[str]) -> None:
    """Raise ValueError if a checkpoint is for another head than its task, or for other labels."""
    if auto_classes != [task.auto_class]:
        raise ValueError(f"task {task.name!r} is for {task.auto_class}, but the checkpoint is for {auto_classes}")
    if labels != list(task.labels):
        raise ValueError(f"task {task.name!r} has the labels {list(task.labels)}, but the checkpoint has {labels}")


def check_same_model(results: RunResults, config: EffAttnConfig) -> None:
    """Raise ValueError if the results are those of a model with another architecture."""
    # A field that did not exist when the results were written had the value that is the default now.
    defaults = architecture(type(config)())
    require(results.model_config, "model_config", "model_type")
    recorded = defaults | results.model_config
    here = {"model_type": config.model_type, **architecture(config)}
    if differing := sorted(name for name, value in here.items() if recorded.get(name) != value):
        pairs = ", ".join(f"{name}: {recorded.get(name)!r} there, {here[name]!r} here" for name in differing)
        raise ValueError(f"the results are those of another model ({pairs})")


def check_same_weights(results: RunResults, folder: Path) -> None:
    """Raise ValueError if the results are those of other weights, be they only in another dtype."""
    recorded, here = require(results.weights, "weights"), weight_checksums(folder)
    if recorded != here:
        raise ValueError(
            f"the results are those of other weights ({recorded} there, {here} here): take the folder model/ of the "
            "run, or what `hf-effattn export` makes of it"
        )


def check_values(results: RunResults, model_class: Callable[[EffAttnConfig], Any], config: EffAttnConfig) -> None:
    """Raise ValueError for values that no run can give, such as an accuracy of 9.9, or that would break a table.

    Args:
        results: of a run.
        model_class: the class of the model.
        config: its config; the parameters of the model that it describes are counted.
    """
    content = results.to_dict()
    for path, possible, what in _expectations():
        value = require(content.get(path[0]), *path)
        if not possible(value):
            raise ValueError(f"the results have {'.'.join(path)}={value!r}, which must be {what}")
    accuracy, low, high = results.accuracy()
    if not low - ROUNDING <= accuracy <= high + ROUNDING:
        raise ValueError(f"the results have an accuracy of {accuracy}, outside of its interval, {low} to {high}")
    steps, best = results.steps, results.best_step
    if best is not None and not (_is_count(best) and best <= steps):
        raise ValueError(f"the results have best_step={best!r} of {steps} steps")
    parameters = model_without_weights(model_class, config).num_parameters()
    if results.parameters != parameters:
        raise ValueError(f"the results have {results.parameters!r} parameters, but the config comes to {parameters:,}")


def _expectations() -> Iterator[tuple[tuple[str, ...], Callable[[Any], bool], str]]:
    """Paths in results, what may stand there, and that in words."""
    for end in ("", "_low", "_high"):
        yield ("test", f"test_accuracy{end}"), _is_share, "a number from 0 to 1"
    for path in (
        *(("steps",), ("processes",), ("arguments", "max_length"), ("environment", "torch_threads")),
        *(("environment", "cpu_count"), *(("data", split, "rows") for split in ("train", "validation", "test"))),
    ):
        yield path, _is_count, "a whole number above 0"
    yield ("training_arguments", "seed"), lambda value: value == 0 or _is_count(value), "a whole number from 0"
    for path in (("tokens_per_second",), ("peak_memory_bytes",)):
        yield path, lambda value: _is_number(value) and value > 0, "a number above 0"
    for split in ("train", "validation", "test"):
        yield ("data", split, "sha256"), _is_digest, "64 hexadecimal digits"
    for path in (
        *(("environment", "device"), ("environment", "platform"), ("environment", "python"), ("backends", "dtype")),
        *(("mixed_precision",), ("arguments", "source")),
    ):
        yield path, lambda value: isinstance(value, str) and value.isprintable(), "one line of text"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
