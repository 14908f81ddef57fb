"""The papers' three claims as comparisons of variants, and what the results say about each."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from .cells import Cells
from .plan import Plan


#: Differences are called so when their 95 % interval leaves out zero.
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
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % interval of the mean, by Student's t over the seeds; None with fewer than two."""
        if len(self.values) < 2:
            return None
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(self.values) - 1)
        return float(quantile * stats.sem(self.values))

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


def difference(cells: Cells, task: str, variant: str, other: str) -> Difference | None:
    """How much better `variant` is than `other` on a task; None without a seed that both have."""
    one, two = cells[task, variant].outcomes, cells[task, other].outcomes
    shared = sorted(one.keys() & two.keys())
    if not shared:
        return None
    return Difference(tuple(one[seed]["test_accuracy"] - two[seed]["test_accuracy"] for seed in shared))


def overall(cells: Cells, tasks: list[str], variant: str, other: str) -> Difference | None:
    """The same over all tasks, one value per seed: its mean over the tasks; None if no seed has all of them."""
    found = [cells[task, name].outcomes.keys() for task in tasks for name in (variant, other)]
    shared = set.intersection(*(set(seeds) for seeds in found)) if found else set()
    values = []
    for seed in sorted(shared):
        values.append(
            float(
                np.mean(
                    [
                        cells[task, variant].outcomes[seed]["test_accuracy"]
                        - cells[task, other].outcomes[seed]["test_accuracy"]
                        for task in tasks
                    ]
                )
            )
        )
    return Difference(tuple(values)) if values else None
