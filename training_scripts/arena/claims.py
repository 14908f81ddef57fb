"""The papers' claims as comparisons of pairs of variants."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from training_scripts.arena.plan import Plan
from training_scripts.arena.scores import ScoreTable


#: A difference is called better or worse if its interval of this confidence does not contain zero.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Claim:
    """A claim and the pairs of variants that test it.

    Attributes:
        title: the claim in words.
        pairs: (variant, the variant that it should be better than).
    """

    title: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Difference:
    """Test accuracy of a variant minus that of another one, between runs of the same seed.

    Attributes:
        values: one difference per seed that both have.
        sampling: standard deviation of the mean over the choice of the test rows, if the two err independently.
    """

    values: tuple[float, ...]
    sampling: float

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values)

    @property
    def half_width(self) -> float | None:
        """Half of the width of the 95 % interval of the mean; None with fewer than two seeds.

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
        """``"better"``, ``"worse"``, or ``"undecided"`` if the interval contains zero or does not exist."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return "undecided"
        return "better" if self.mean > 0 else "worse"


def claims(plan: Plan) -> list[Claim]:
    """The claims, with the pairs of the plan that test them."""
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


def difference(table: ScoreTable, tasks: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Difference | None:
    """How much better the first variant of each pair is than the second, averaged over tasks and pairs.

    Test rows of different tasks are independent. Pairs of one task share the test rows, and may share a variant: their
    sampling deviations are averaged, as if they were fully correlated, which is the upper bound.

    Returns:
        One value per seed that all runs have; None without such a seed.
    """
    cases = [[(table[task, one].outcomes, table[task, two].outcomes) for one, two in pairs] for task in tasks]
    outcomes = [found for case in cases for pair in case for found in pair]
    shared = sorted(set.intersection(*(set(found) for found in outcomes)))
    if not shared:
        return None
    values = [
        statistics.mean(one[seed]["test_accuracy"] - two[seed]["test_accuracy"] for case in cases for one, two in case)
        for seed in shared
    ]
    of_tasks = [
        statistics.mean(
            math.hypot(sampling_deviation(one, shared), sampling_deviation(two, shared)) for one, two in case
        )
        for case in cases
    ]
    return Difference(tuple(values), math.hypot(*of_tasks) / len(tasks))


def sampling_deviation(outcomes: dict[int, dict[str, Any]], seeds: list[int]) -> float:
    """Standard deviation of a variant's mean accuracy over the choice of the test rows.

    All seeds are scored on the same rows, so more seeds do not lower it. The labels of one row count as a single one,
    as if they were fully correlated.
    """
    accuracy = statistics.mean(outcomes[seed]["test_accuracy"] for seed in seeds)
    return math.sqrt(accuracy * (1 - accuracy) / outcomes[seeds[0]]["data"]["test"]["rows"])
