"""Statistics of interleaved times: medians, and ratios taken round by round."""

import statistics
from dataclasses import dataclass


#: One time per round, None in rounds without the candidate.
Times = list[float | None]


@dataclass(frozen=True)
class Spread:
    """A median between its quartiles."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Median and quartiles of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def median_seconds(times: Times) -> float:
    """The median over the rounds that there were."""
    return statistics.median([value for value in times if value is not None])


def ratio(slower: Times, faster: Times) -> Spread | None:
    """``slower / faster`` in every round that has both; None without such a round."""
    pairs = [
        over / under for over, under in zip(slower, faster, strict=True) if over is not None and under is not None
    ]
    return spread(pairs) if pairs else None
