"""The results of the arena, cell by cell: a variant on a task, with all its seeds."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from training_scripts.arena.plan import Plan
from training_scripts.arena.results import RESULTS, load_results


@dataclass
class Cell:
    """What the runs of a variant on a task gave.

    Attributes:
        outcomes: seed -> outcome, of the seeds that are done.
        error: why the model cannot run on the task, if it cannot.
        failed: runs with an error.
    """

    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None
    failed: int = 0

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies, in the order of the seeds."""
        return [outcome["test_accuracy"] for _, outcome in sorted(self.outcomes.items())]

    @property
    def mean(self) -> float | None:
        """Mean test accuracy over the seeds that are done."""
        return statistics.mean(self.accuracies) if self.outcomes else None

    def above(self, guess: float) -> bool:
        """Whether the lower ends of Wilson's 95 % intervals, on average over seeds, are above it.

        They are over the test rows; labels of one row count as a single one, for what they have in common.
        """
        lows = []
        for outcome in self.outcomes.values():
            rows = outcome["data"]["test"]["rows"]
            found = binomtest(round(outcome["test_accuracy"] * rows), rows)
            lows.append(found.proportion_ci(0.95, method="wilson").low)
        return bool(lows) and statistics.mean(lows) > guess

    def curve(self) -> dict[int, float]:
        """Step -> mean over seeds of the validation accuracy."""
        points: dict[int, list[float]] = {}
        for outcome in self.outcomes.values():
            for point in outcome["curve"]:
                points.setdefault(point["step"], []).append(point["accuracy"])
        return {step: statistics.mean(values) for step, values in sorted(points.items())}

    def best_by(self, step: float) -> list[float]:
        """The best validation accuracy up to a step, of every seed; none if one was not scored by then."""
        best = []
        for outcome in self.outcomes.values():
            scores = [point["accuracy"] for point in outcome["curve"] if point["step"] <= step]
            if not scores:
                return []
            best.append(max(scores))
        return best

    def diagnostic(self, measure: str) -> dict[int, float]:
        """Step -> mean over seeds and layers of a measure of `hf_effattn.diagnose`, if there is one."""
        points: dict[int, list[float]] = {}
        for outcome in self.outcomes.values():
            # Where a step is there twice, the second entry is of the best weights, and not of that step's.
            for step, entry in {entry["step"]: entry for entry in reversed(outcome["diagnostics"])}.items():
                values = [value for name, value in entry.items() if name.split("/")[-1] == measure]
                points.setdefault(step, []).extend(values)
        return {step: statistics.mean(values) for step, values in sorted(points.items()) if values}


#: (task, variant) -> cell.
Cells = dict[tuple[str, str], Cell]


def read_cells(plan: Plan, folder: Path = RESULTS) -> Cells:
    """Every cell of the plan, with the results that there are.

    Raises:
        ValueError: a result is damaged, comes from another recipe, or was made on other data than the others.
    """
    data: dict[str, Any] = {}
    cells = {(task, variant): Cell() for task in plan.tasks for variant in plan.variants}
    runs = plan.runs()
    results = load_results(runs, folder)
    for run in runs:
        if (result := results.get(run.name)) is None:
            continue
        cell = cells[run.task, run.variant.name]
        if result["error"] is None:
            if data.setdefault(run.task, result["outcome"]["data"]) != result["outcome"]["data"]:
                raise ValueError(
                    f"{run.name} was made on other data than the other runs of its task: delete its result"
                )
            cell.outcomes[run.seed] = result["outcome"]
        else:
            cell.error = result["error"]
            cell.failed += 1
    return cells
