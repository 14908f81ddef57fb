"""The results of the arena's runs: where they are kept, how they are added, and which of them are current.

Every task has one file, in the form of `result_lines`. A writer holds a lock while it reads the file, changes it and
replaces it in one piece: so a reader never meets half a file, and two writers never lose a result.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from hf_effattn.files import read_json, write_text
from hf_effattn.training.results import RunResults, require
from training_scripts.arena.plan import Run
from training_scripts.arena.result_lines import FIELDS, Result, Results, decode, encode


RESULTS = Path(__file__).resolve().parents[1] / "results" / "arena"


def result_file(task: str, folder: Path = RESULTS) -> Path:
    """The file of a task's results."""
    return folder / f"{task}.jsonl"


def read_results(task: str, folder: Path = RESULTS) -> Results:
    """All results of a task, whatever recipe they come from.

    A folder in which the task has no file yet, but one file per run, ``<task>/<variant>/seed-<seed>.json``, as earlier
    versions wrote them, is read as well.

    Raises:
        ValueError: a file is damaged.
    """
    path = result_file(task, folder)
    return decode(path) if path.is_file() else read_run_files(folder / task)


def read_run_files(folder: Path) -> Results:
    """The results of a task that has one file per run.

    Raises:
        ValueError: a file is damaged, or holds something else.
    """
    results: Results = {}
    for path in sorted(folder.glob("*/seed-*.json")):
        result = read_json(path)
        if not isinstance(result, dict) or not result.keys() >= set(FIELDS):
            raise ValueError(f"{path} is not the result of a run: delete it, and run the arena again")
        results[path.parent.name, int(path.stem.removeprefix("seed-"))] = result
    return results


@contextmanager
def changed_results(task: str, folder: Path = RESULTS) -> Iterator[Results]:
    """The results of a task, to be changed in place; they are written when the context ends without an error."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".results.lock"):
        results = read_results(task, folder)
        before = encode(results)
        yield results
        if (after := encode(results)) != before:
            write_text(result_file(task, folder), after)


def load_results(runs: Iterable[Run], folder: Path = RESULTS) -> dict[str, Result]:
    """Name of a run -> its result, for those of `runs` that have one.

    Raises:
        ValueError: a file is damaged, or a result comes from another recipe.
    """
    tasks: dict[str, Results] = {}
    found = {}
    for run in runs:
        if run.task not in tasks:
            tasks[run.task] = read_results(run.task, folder)
        if (result := tasks[run.task].get(run.key)) is None:
            continue
        if result["fingerprint"] != run.fingerprint:
            before, now = result["arguments"], run.arguments
            changed = sorted(name for name in before | now if before.get(name) != now.get(name))
            raise ValueError(
                f"the result of {run.name} in {folder} comes from another recipe, which differs in {changed}: restore "
                "the recipe, or train again with --replace-stale"
            )
        found[run.name] = result
    return found


def remove_stale(runs: Sequence[Run], folder: Path = RESULTS) -> None:
    """Remove those results of `runs` that come from another recipe."""
    for task in {run.task for run in runs}:
        with changed_results(task, folder) as results:
            for run in runs:
                if run.task == task and run.key in results and results[run.key]["fingerprint"] != run.fingerprint:
                    del results[run.key]


def save_outcome(run: Run, results: RunResults, folder: Path = RESULTS) -> None:
    """Keep what tables and plots need of the results of a run."""
    log, content = results.log, results.to_dict()
    accuracy, low, high = results.accuracy()
    outcome = {
        "parameters": results.parameters,
        "steps": results.steps,
        "best_step": results.best_step,
        "validation_accuracy": results.validation_accuracy,
        "test_accuracy": accuracy,
        "test_interval": [low, high],
        "test_loss": require(results.test, "test", "test_loss"),
        "curve": [
            {"step": entry["step"], "accuracy": entry["eval_accuracy"], "loss": entry["eval_loss"]}
            for entry in log
            if "eval_accuracy" in entry
        ],
        "training_loss": [{"step": entry["step"], "loss": entry["loss"]} for entry in log if "loss" in entry],
        "diagnostics": [
            {name.removeprefix("diagnostics/"): value for name, value in entry.items() if name != "epoch"}
            for entry in log
            if any(name.startswith("diagnostics/") for name in entry)
        ],
        "data": content["data"],
        "backends": results.backends,
        "environment": content["environment"],
        "code": results.code,
    }
    _save(run, None, outcome, folder)


def save_error(run: Run, error: str, folder: Path = RESULTS) -> None:
    """Keep why a model cannot run on a task."""
    _save(run, error, None, folder)


def _save(run: Run, error: str | None, outcome: dict[str, Any] | None, folder: Path) -> None:
    with changed_results(run.task, folder) as results:
        results[run.key] = {
            "fingerprint": run.fingerprint,
            "arguments": run.arguments,
            "error": error,
            "outcome": outcome,
        }


def write_measurements(path: Path, content: dict[str, Any]) -> None:
    """Write JSON in which every object that holds no other object has a line of its own."""
    write_text(path, _lines(content) + "\n")


def _lines(value: Any, indent: str = "") -> str:
    if not isinstance(value, dict) or not any(isinstance(part, dict) for part in value.values()):
        return json.dumps(value, sort_keys=True)
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(name)}: {_lines(value[name], inner)}" for name in sorted(value)]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
