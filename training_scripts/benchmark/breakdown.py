"""The group "breakdown": where the forward time of the compiled kernels goes, which tells why a target is missed.

Each time is taken right after a matrix product, as in the other groups: the code of Python and of torch's dispatcher
is then no longer in the processor's caches, and costs several times what it costs in a loop of its own.
"""

import statistics
import time
from typing import Any

import torch
from tqdm import tqdm

from hf_effattn.kernels import ops

from ..measuring.timing import timed
from .check import verify
from .flops import linear_attention_flops, product_flops
from .operators import product_runner
from .ours import linear_candidate
from .problem import ELU, FORWARD, GLU, IDENTITY, Problem
from .settings import Settings


def run_breakdown(settings: Settings) -> dict[str, Any]:
    """Time the kernels from inside and from outside."""
    problems = [Problem(length, feature_map=name) for length in settings.lengths for name in (IDENTITY, ELU)]
    longest = settings.trained_map_length
    problems += [Problem(longest, feature_map=GLU, features=count) for count in settings.trained_map_features]
    return {"entries": [break_down(problem, settings) for problem in tqdm(problems, desc="breakdown", leave=False)]}


def break_down(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Median seconds of one problem: the matrix product, the whole call, and what of it is spent in the kernels."""
    candidate = linear_candidate("cpu", problem.feature_map)
    check = verify(candidate, problem.at_length(settings.check_length), FORWARD)
    prepared = candidate.setup(problem)
    query, key, value, _ = problem.inputs()
    product = product_runner()
    inside, total, products = [], [], []
    for _ in range(settings.most_rounds):
        products.append(timed(product))
        spent, seconds = seconds_inside(lambda: prepared.run(query, key, value, *prepared.parameters))
        inside.append(spent)
        total.append(seconds)
    floor = linear_attention_flops(problem, FORWARD) / product_flops() * min(products)
    return {
        "problem": {name: getattr(problem, name) for name in problem.__dataclass_fields__},
        "check": check.as_json(),
        "total_seconds": statistics.median(total),
        "kernel_seconds": statistics.median(inside),
        "floor_seconds": floor,
    }


def seconds_inside(call: Any) -> tuple[float, float]:
    """Seconds that `call` spends in the compiled library, and in all."""
    spent = []
    # The name that the operators call.
    module: Any = ops
    original = module.run_kernel

    def measured(function: str, arguments: Any) -> None:
        start = time.perf_counter()
        original(function, arguments)
        spent.append(time.perf_counter() - start)

    module.run_kernel = measured
    try:
        with torch.no_grad():
            start = time.perf_counter()
            call()
            seconds = time.perf_counter() - start
    finally:
        module.run_kernel = original
    return sum(spent), seconds
