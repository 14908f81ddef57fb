"""What is measured beside the runs, as far as it was measured on what the plan has now."""

from pathlib import Path
from typing import Any

from hf_effattn.files import read_json
from training_scripts.arena.cells import Cells
from training_scripts.arena.plan import Plan


#: The names of the scripts that measure, and of their files.
FILES = ("costs", "memory", "padding", "guesses")


def read_measurements(plan: Plan, cells: Cells, folder: Path) -> dict[str, Any]:
    """What the files of `FILES` have, without what is out of date.

    Args:
        plan: the arena.
        cells: the results of its runs, which tell what data there were.
        folder: where the files are; those that are missing give nothing.

    Returns:
        ``costs``: task -> times of its variants, and their memory where it was measured; ``padding``: variant -> what
        padding does; ``guesses``: task -> guesses.
    """
    found = {name: _read(folder / f"{name}.json") for name in FILES}
    costs = {}
    for task, listed in found["costs"].get("tasks", {}).items():
        times, memory = (
            {name: cost for name, cost in variants.items() if _current_cost(plan, task, name, cost)}
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
        if task in plan.tasks and _test_data(plan, cells, task) in (None, entry["sha256"])
    }
    return {"costs": costs, "padding": padding, "guesses": guesses}


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _current_cost(plan: Plan, task: str, name: str, cost: dict[str, Any]) -> bool:
    """Whether the plan has the run still, with the recipe that it was measured with."""
    if task not in plan.tasks or name not in plan.variants:
        return False
    return cost["fingerprint"] == plan.run(task, plan.variants[name], plan.seeds[0]).fingerprint


def _test_data(plan: Plan, cells: Cells, task: str) -> str | None:
    """The checksum of a task's test rows, if a run has seen them."""
    outcomes = (outcome for name in plan.variants for outcome in cells[task, name].outcomes.values())
    return next((outcome["data"]["test"]["sha256"] for outcome in outcomes), None)
