"""Where the results of the arena's runs are kept, and which of them can be trusted."""

from pathlib import Path
from typing import Any

from hf_effattn.files import read_json, write_json

from .plan import Run


RESULTS = Path(__file__).resolve().parents[1] / "results" / "arena"

#: What a result holds; a file without one of these was not written here.
FIELDS = {"fingerprint", "arguments", "error", "outcome"}


def result_path(run: Run, folder: Path = RESULTS) -> Path:
    """The file of a run's result."""
    return folder / f"{run.name}.json"


def load_result(run: Run, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The result of a run, or None if there is none yet.

    Raises:
        ValueError: the file is damaged, or it is the result of other arguments.
    """
    path = result_path(run, folder)
    if not path.is_file():
        return None
    result = read_json(path)
    if not isinstance(result, dict) or not result.keys() >= FIELDS:
        raise ValueError(f"{path} is no result of a run: delete it, and run the arena again")
    if result["fingerprint"] != run.fingerprint:
        changed = {
            name
            for name in result["arguments"].keys() | run.arguments.keys()
            if result["arguments"].get(name) != run.arguments.get(name)
        }
        raise ValueError(
            f"{path} is the result of another recipe, which differs in {sorted(changed)}: restore the recipe, or "
            "train again with run.py --replace-stale"
        )
    return result


def store_outcome(run: Run, results: dict[str, Any], folder: Path = RESULTS) -> None:
    """Keep of ``results.json`` what tables and plots are made of."""
    log = results["log"]
    outcome = {
        "parameters": results["parameters"],
        "steps": results["steps"],
        "best_step": results["best_step"],
        "validation_accuracy": results["validation_accuracy"],
        "test_accuracy": results["test"]["test_accuracy"],
        "test_interval": [results["test"]["test_accuracy_low"], results["test"]["test_accuracy_high"]],
        "test_loss": results["test"]["test_loss"],
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
        "data": results["data"],
        "backends": results["backends"],
        "environment": results["environment"],
        "code": results.get("code"),
    }
    _store(run, None, outcome, folder)


def store_error(run: Run, error: str, folder: Path = RESULTS) -> None:
    """Keep that a model cannot run on a task, and why."""
    _store(run, error, None, folder)


def _store(run: Run, error: str | None, outcome: dict[str, Any] | None, folder: Path) -> None:
    content = {"fingerprint": run.fingerprint, "arguments": run.arguments, "error": error, "outcome": outcome}
    write_json(result_path(run, folder), content)
