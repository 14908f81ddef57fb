"""Interleaved timing: every round runs every candidate once, in random order.

What else the machine does, and how warm it is, then falls on all candidates alike, and the ratio of two candidates
is taken within a round.
"""

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm


#: After this long nothing is cold any more.
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Rounds:
    """How many rounds a measurement has.

    Attributes:
        least_rounds: rounds in which every fast candidate takes part.
        most_rounds: rounds after which a scenario ends although time is left.
        slow_rounds: rounds in which a slow candidate takes part.
        slow_seconds: from when on a candidate is slow.
    """

    least_rounds: int = 5
    most_rounds: int = 24
    slow_rounds: int = 3
    slow_seconds: float = 1.5


@dataclass(frozen=True)
class Runner:
    """Something to time.

    Attributes:
        name: its key in the results.
        call: what is timed.
        before: what has to happen before every call, and is not timed.
        first_seconds: what a call took that was already made, if one was: long ones are not repeated to warm up.
    """

    name: str
    call: Callable[[], Any]
    before: Callable[[], None] | None = None
    first_seconds: float = 0.0


@dataclass
class Timings:
    """What `interleave` measured.

    Attributes:
        seconds: for every runner one time per round, None in rounds without it.
        errors: what runners raised; they have no times.
    """

    seconds: dict[str, list[float | None]] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)


def interleave(runners: list[Runner], rounds: Rounds, budget: float, seed: int, label: str) -> Timings:
    """Warm up, then time `runners` round by round, in `budget` seconds or the least number of rounds."""
    timings = Timings()
    gc.collect()
    estimates = {runner.name: _attempt(runner, timings, warm_up) for runner in runners}
    slow = {name for name, estimate in estimates.items() if estimate > rounds.slow_seconds}
    slow_cost = rounds.slow_rounds * sum(estimates[name] for name in slow)
    fast_cost = sum(estimates.values()) - sum(estimates[name] for name in slow)
    affordable = int((budget - slow_cost) / max(fast_cost, 1e-9))
    count = max(rounds.least_rounds, min(rounds.most_rounds, affordable))
    alive = [runner for runner in runners if runner.name not in timings.errors]
    timings.seconds = {runner.name: [None] * count for runner in alive}
    order = random.Random(seed)
    gc.disable()
    try:
        for index in tqdm(range(count), desc=label, leave=False):
            for runner in order.sample(alive, len(alive)):
                if runner.name in timings.errors or (runner.name in slow and index >= rounds.slow_rounds):
                    continue
                timings.seconds[runner.name][index] = _attempt(runner, timings, timed)
    finally:
        gc.enable()
    for name in timings.errors:
        timings.seconds.pop(name, None)
    return timings


def timed(runner: Runner) -> float:
    """Seconds of one call."""
    if runner.before is not None:
        runner.before()
    start = time.perf_counter()
    result = runner.call()
    seconds = time.perf_counter() - start
    del result
    # The clock and the noise of a round are far coarser than the sixth digit.
    return float(f"{seconds:.5g}")


def warm_up(runner: Runner) -> float:
    """Run until caches, threads and compiled code are there; returns the seconds of the last call."""
    spent = seconds = runner.first_seconds
    for _ in range(3):
        if spent > WARM_UP_SECONDS:
            break
        seconds = timed(runner)
        spent += seconds
    return seconds


def _attempt(runner: Runner, timings: Timings, measure: Callable[[Runner], float]) -> float:
    try:
        return measure(runner)
    except Exception as error:
        # A peer may raise anything, and must not end the others' measurement.
        timings.errors[runner.name] = error
        return 0.0
