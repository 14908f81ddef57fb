"""Scores of a variant on a task, over all its seeds."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from training_scripts.arena.plan import Plan
from training_scripts.arena.results import RESULTS, load_results


@dataclass
class Scores:
    """The runs of a variant on a task.

    Attributes:
        outcomes: seed -> outcome of its run, for every seed that has been trained.
        error: the exception that a run ended with, if one did.
        failed: the number of runs that ended with an exception.
    """

    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None
    failed: int = 0

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies in the order of the seeds."""
        return [outcome["test_accuracy"] for _, outcome in sorted(self.outcomes.items())]

    @property
    def mean(self) -> float | None:
        """Mean test accuracy over the seeds; None without any."""
        return statistics.mean(self.accuracies) if self.outcomes else None

    def is_above(self, guess: float) -> bool:
        """Whether the accuracy is significantly above `guess`.

        It is if the lower ends of Wilson's 95 % intervals, averaged over the seeds, are above. The intervals are over
        the test rows: labels of one row depend on one another, and so count as a single one.
        """
        lows = []
        for outcome in self.outcomes.values():
            rows = outcome["data"]["test"]["rows"]
            found = binomtest(round(outcome["test_accuracy"] * rows), rows)
            lows.append(found.proportion_ci(0.95, method="wilson").low)
        return bool(lows) and statistics.mean(lows) > guess

    def curve(self) -> dict[int, float]:
        """Step -> validation accuracy, averaged over the seeds."""
        points: dict[int, list[float]] = {}
        for outcome in self.outcomes.values():
            for point in outcome["curve"]:
                points.setdefault(point["step"], []).append(point["accuracy"])
        return {step: statistics.mean(values) for step, values in sorted(points.items())}

    def best_by(self, step: float) -> list[float]:
        """The best validation accuracy of every seed up to a step; empty if a seed was not scored by then."""
        best = []
        for outcome in self.outcomes.values():
            scores = [point["accuracy"] for point in outcome["curve"] if point["step"] <= step]
            if not scores:
                return []
            best.append(max(scores))
        return best

    def diagnostic(self, measure: str) -> dict[int, float]:
        """Step -> a measure of `hf_effattn.diagnose`, averaged over seeds and layers; empty without it."""
        points: dict[int, list[float]] = {}
        for outcome in self.outcomes.values():
            # A step can have a second entry: that of the best weights, which were loaded after training.
            for step, entry in {entry["step"]: entry for entry in reversed(outcome["diagnostics"])}.items():
                values = [value for name, value in entry.items() if name.split("/")[-1] == measure]
                points.setdefault(step, []).extend(values)
        return {step: statistics.mean(values) for step, values in sorted(points.items()) if values}


#: (task, variant) -> scores.
ScoreTable = dict[tuple[str, str], Scores]


def read_scores(plan: Plan, folder: Path = RESULTS) -> ScoreTable:
    """The scores of every variant on every task of the plan, as far as its runs have been trained.

    Raises:
        ValueError: a file of results is damaged, or a result comes from another recipe or from other data than the
            other runs of its task.
    """
    data: dict[str, Any] = {}
    table = {(task, variant): Scores() for task in plan.tasks for variant in plan.variants}
    runs = plan.runs()
    results = load_results(runs, folder)
    for run in runs:
        if (result := results.get(run.name)) is None:
            continue
        scores = table[run.task, run.variant.name]
        if result["error"] is None:
            if data.setdefault(run.task, result["outcome"]["data"]) != result["outcome"]["data"]:
                raise ValueError(
                    f"{run.name} was made on other data than the other runs of its task: delete its result"
                )
            scores.outcomes[run.seed] = result["outcome"]
        else:
            scores.error = result["error"]
            scores.failed += 1
    return table
