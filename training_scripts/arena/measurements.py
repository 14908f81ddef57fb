"""Costs, memory, padding and guesses: the measurements beside the runs that are still current."""

from pathlib import Path
from typing import Any

from hf_effattn.files import read_json
from training_scripts.arena.plan import Plan
from training_scripts.arena.scores import ScoreTable


#: Names of the measuring scripts, and of their files.
FILES = ("costs", "memory", "padding", "guesses")


def read_measurements(plan: Plan, table: ScoreTable, folder: Path) -> dict[str, Any]:
    """The content of the files of `FILES`, without entries of recipes or data that have changed since.

    Args:
        plan: the arena.
        table: the scores of its runs, which record their data.
        folder: where the files are; a missing file counts as empty.

    Returns:
        ``costs``: task -> times of its variants, with their memory where that was measured; ``padding``: variant ->
        effect of padding; ``guesses``: task -> guesses.
    """
    found = {name: _read(folder / f"{name}.json") for name in FILES}
    costs = {}
    for task, listed in found["costs"].get("tasks", {}).items():
        times, memory = (
            {name: cost for name, cost in variants.items() if plan.is_current(task, name, cost)}
            for variants in (listed["variants"], found["memory"].get(task, {}))
        )
        if times:
            costs[task] = listed | {"variants": {name: memory.get(name, {}) | times[name] for name in times}}
    padding = {
        name: entry
        for name, entry in found["padding"].items()
        if name in plan.variants and entry["options"] == plan.options_of(plan.variants[name])
    }
    guesses = {
        task: entry
        for task, entry in found["guesses"].items()
        if task in plan.tasks and _test_data(plan, table, task) in (None, entry["sha256"])
    }
    return {"costs": costs, "padding": padding, "guesses": guesses}


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _test_data(plan: Plan, table: ScoreTable, task: str) -> str | None:
    """The checksum of the test rows that the runs of a task were scored on; None without a run."""
    outcomes = (outcome for name in plan.variants for outcome in table[task, name].outcomes.values())
    return next((outcome["data"]["test"]["sha256"] for outcome in outcomes), None)
