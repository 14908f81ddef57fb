"""The papers' three claims as comparisons of variants, and what the results say about each."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from training_scripts.arena.cells import Cells
from training_scripts.arena.plan import Plan


#: Differences are called better or worse when their interval of this confidence leaves out zero.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Claim:
    """A claim and the pairs of variants that test it.

    Attributes:
        title: what it says.
        pairs: (variant, the one that it should be better than).
    """

    title: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Difference:
    """Test accuracy of a variant minus that of another one, run by run with the same seed.

    Attributes:
        values: one difference per seed that both have.
        sampling: standard deviation that the choice of the test rows gives it, if the two err independently.
    """

    values: tuple[float, ...]
    sampling: float

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values)

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the mean; None with fewer than two seeds.

        ``sqrt((t sem)^2 + (z sampling)^2)``, with Student's t over the seeds, which share the test rows, and the
        normal z over the rows.
        """
        if len(self.values) < 2:
            return None
        share = (1 + CONFIDENCE) / 2
        over_seeds = stats.t.ppf(share, len(self.values) - 1) * stats.sem(self.values)
        return math.hypot(over_seeds, stats.norm.ppf(share) * self.sampling)

    @property
    def verdict(self) -> str:
        """``"better"``, ``"worse"``, or ``"undecided"`` if the interval holds zero or there is none."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return "undecided"
        return "better" if self.mean > 0 else "worse"


def claims(plan: Plan) -> list[Claim]:
    """The claims, with the pairs that the plan names."""
    variants = plan.variants.values()
    filtered = tuple((v.name, v.filtered) for v in variants if v.filtered is not None)
    trained = tuple((v.name, fixed) for v in variants for fixed in v.fixed)
    softmax = tuple((v.name, v.against_softmax) for v in variants if v.against_softmax is not None)
    luna = tuple((v.name, v.against_luna) for v in variants if v.against_luna is not None)
    return [
        Claim("A filter helps: the same variant with its filter and without", filtered),
        Claim("ConvLuna against Luna, which differs from it in more than the filter", luna),
        Claim("A trained feature map is better than a fixed one", trained),
        Claim("SimpleTRON against softmax attention", softmax),
    ]


def difference(cells: Cells, tasks: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Difference | None:
    """How much better the first of each pair is than the second: the mean over tasks and pairs, one value per seed.

    Test rows of different tasks are independent. Pairs of variants are scored on the same ones, and may share a
    variant; their sampling is taken for as large together as it is alone, which is the most that it can be.

    Returns:
        None without a seed that all of them have.
    """
    cases = [[(cells[task, one].outcomes, cells[task, two].outcomes) for one, two in pairs] for task in tasks]
    outcomes = [found for case in cases for pair in case for found in pair]
    shared = sorted(set.intersection(*(set(found) for found in outcomes)))
    if not shared:
        return None
    values = [
        statistics.mean(one[seed]["test_accuracy"] - two[seed]["test_accuracy"] for case in cases for one, two in case)
        for seed in shared
    ]
    of_tasks = [
        statistics.mean(math.hypot(sampling(one, shared), sampling(two, shared)) for one, two in case)
        for case in cases
    ]
    return Difference(tuple(values), math.hypot(*of_tasks) / len(tasks))


def sampling(outcomes: dict[int, dict[str, Any]], seeds: list[int]) -> float:
    """Standard deviation of a variant's mean accuracy over the choice of the test rows.

    The seeds are scored on the same rows, so their number does not lower it. The labels of one row count as a single
    one, which is the most that they can depend on one another.
    """
    accuracy = statistics.mean(outcomes[seed]["test_accuracy"] for seed in seeds)
    return math.sqrt(accuracy * (1 - accuracy) / outcomes[seeds[0]]["data"]["test"]["rows"])
