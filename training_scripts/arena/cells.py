"""The results of the arena, cell by cell: a variant on a task, with all its seeds."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .plan import Plan
from .results import RESULTS, load_result


@dataclass
class Cell:
    """What the runs of a variant on a task gave.

    Attributes:
        outcomes: seed -> outcome, of the seeds that are done.
        error: why the model cannot run on the task, if it cannot.
    """

    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies, in the order of the seeds."""
        return [outcome["test_accuracy"] for _, outcome in sorted(self.outcomes.items())]

    @property
    def mean(self) -> float | None:
        """Mean test accuracy over the seeds that are done."""
        return statistics.mean(self.accuracies) if self.outcomes else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of the test accuracy over seeds, if there are two."""
        return statistics.stdev(self.accuracies) if len(self.outcomes) > 1 else None

    def curve(self, key: str = "accuracy") -> dict[int, float]:
        """Step -> mean over seeds of a validation score."""
        points: dict[int, list[float]] = {}
        for outcome in self.outcomes.values():
            for point in outcome["curve"]:
                points.setdefault(point["step"], []).append(point[key])
        return {step: statistics.mean(values) for step, values in sorted(points.items())}

    def best_by(self, step: float) -> float | None:
        """Mean over seeds of the best validation accuracy up to a step, if every seed was scored by then."""
        best = []
        for outcome in self.outcomes.values():
            scores = [point["accuracy"] for point in outcome["curve"] if point["step"] <= step]
            if not scores:
                return None
            best.append(max(scores))
        return statistics.mean(best) if best else None

    def diagnostic(self, measure: str) -> dict[int, float]:
        """Step -> mean over seeds and layers of a measure of `hf_effattn.diagnose`, if there is one."""
        points: dict[int, list[float]] = {}
        for outcome in self.outcomes.values():
            for entry in outcome["diagnostics"]:
                values = [value for name, value in entry.items() if name.split("/")[-1] == measure]
                points.setdefault(entry["step"], []).extend(values)
        return {step: statistics.mean(values) for step, values in sorted(points.items()) if values}


#: (task, variant) -> cell.
Cells = dict[tuple[str, str], Cell]


def read_cells(plan: Plan, folder: Path = RESULTS) -> Cells:
    """Every cell of the plan, with the results that there are.

    Raises:
        ValueError: a result is damaged, or comes from another recipe.
    """
    cells = {(task, variant): Cell() for task in plan.tasks for variant in plan.variants}
    for run in plan.runs():
        result = load_result(run, folder)
        if result is None:
            continue
        cell = cells[run.task, run.variant.name]
        if result["error"] is None:
            cell.outcomes[run.seed] = result["outcome"]
        else:
            cell.error = result["error"]
    return cells
