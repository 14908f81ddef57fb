"""One peak of memory, in a process of its own: prints a JSON object. `memory` starts it; it is no use by itself."""

import gc
import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from hf_effattn.machine import peak_resident_bytes

from ..measuring.peak_memory import reset_peak, status_bytes
from .candidate import Candidate
from .check import run_candidate, verify
from .ours import linear_candidate, softmax_candidate
from .problem import TRAINING, Problem


#: What can be measured, by the name that the parent process passes.
CANDIDATES: dict[str, Callable[[], Candidate]] = {
    "hf_effattn torch": lambda: linear_candidate("torch"),
    "hf_effattn cpu": lambda: linear_candidate("cpu"),
    "torch SDPA": softmax_candidate,
}


def main() -> None:
    """Check the operator, which also loads and starts everything that it needs, then measure it."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    candidate = CANDIDATES[request["name"]]()
    problem = Problem(request["length"], request["causal"])
    check = verify(candidate, problem.at_length(request["check_length"]), request["mode"])
    result: dict[str, Any] = {"check": check.as_json()}
    if check.passed:
        result |= measure(candidate, problem, request["mode"])
    else:
        result["error"] = check.failure
    print(json.dumps(result))


def measure(candidate: Candidate, problem: Problem, mode: str) -> dict[str, Any]:
    """Peak memory of one call above what the process holds with the inputs made."""
    prepared = candidate.setup(problem)
    query, key, value, gradient = problem.inputs()
    leaves = [part.requires_grad_(mode == TRAINING) for part in candidate.layout.pack(query, key, value)]
    del query, key, value
    output_gradient = candidate.layout.output(gradient)
    gc.collect()
    # Where the kernel lets us, the peak so far is forgotten; else it may hide a smaller peak of the operator.
    reset = reset_peak()
    before = status_bytes("VmRSS") if reset else peak_resident_bytes()
    results = run_candidate(prepared, leaves, output_gradient, mode)
    after = status_bytes("VmHWM") if reset else peak_resident_bytes()
    del results
    return {"peak_bytes": after - before, "method": "VmHWM after a reset" if reset else "ru_maxrss"}


if __name__ == "__main__":
    main()
