"""Measure the peak memory of a training step of every variant on every task of the arena.

    python -m training_scripts.arena.memory                # what is missing
    python -m training_scripts.arena.memory --task text    # a task again

Each is measured in a process of its own, so that other work on the machine does not matter, on the first rows that it
trains on. Writes ``memory.json`` beside the results of the runs.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

from hf_effattn.files import read_json
from hf_effattn.machine import peak_resident_bytes
from training_scripts.arena.costs import step_of
from training_scripts.arena.plan import PLAN, Run, read_plan
from training_scripts.arena.results import RESULTS, write_measurements
from training_scripts.measuring.allocator import RETURN_FREED_MEMORY
from training_scripts.measuring.peak_memory import reset_peak, status_bytes


MODULE = "training_scripts.arena.memory"
MEMORY = RESULTS / "memory.json"

#: Steps after which the memory of a run no longer grows.
STEPS = 3


def measure(plan_file: Path, run: Run) -> dict[str, Any]:
    """What `memory_point` gives in a process of its own.

    Raises:
        ValueError: the process fails, for example because the data are not there; with its last words.
    """
    command = [
        sys.executable,
        "-m",
        "training_scripts.arena.memory",
        f"--plan={plan_file}",
        "--point",
        run.task,
        run.variant.name,
    ]
    done = subprocess.run(command, env=os.environ | RETURN_FREED_MEMORY, capture_output=True, text=True)
    if done.returncode:
        raise ValueError((done.stderr.splitlines() or ["no word"])[-1])
    return {"fingerprint": run.fingerprint, **json.loads(done.stdout.splitlines()[-1])}


def memory_point(run: Run) -> dict[str, Any]:
    """Peak memory of a few steps above what the process holds with the model built, or why a builtin model fails.

    Gradients and the optimizer's two moments are in the peak; they say nothing about attention, and are given as
    ``state_bytes``.
    """
    # The first product loads and starts what every model needs.
    torch.randn(64, 64, requires_grad=True).square().mm(torch.randn(64, 64)).sum().backward()
    step = step_of(run)
    state = 3 * sum(p.numel() * p.element_size() for p in step.model.parameters())
    reset = reset_peak()
    before = status_bytes("VmRSS") if reset else peak_resident_bytes()
    try:
        for _ in range(STEPS):
            step()
    except Exception as error:
        if not run.variant.builtin:
            raise
        return {"error": f"{type(error).__name__}: {error}"}
    peak = (status_bytes("VmHWM") if reset else peak_resident_bytes()) - before
    return {"error": None, "peak_bytes": peak, "state_bytes": state}


def main(arguments: list[str]) -> None:
    """Measure one after the other; what is measured is written at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, help="another arena.yaml")
    parser.add_argument("--task", nargs="+", help="these tasks alone, measured or not")
    parser.add_argument("--output", type=Path, default=MEMORY, help="file of the peaks")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    plan = read_plan(options.plan)
    # As in the runs of the arena, which share a machine.
    torch.set_num_threads(1)
    if options.point:
        task, variant = options.point
        print(json.dumps(memory_point(plan.run(task, plan.variants[variant], plan.seeds[0]))))
        return
    found = read_json(options.output) if options.output.is_file() else {}
    first = [run for run in plan.runs() if run.seed == plan.seeds[0]]
    asked = [
        run
        for run in first
        if (
            run.task in options.task
            if options.task
            else found.get(run.task, {}).get(run.variant.name, {}).get("fingerprint") != run.fingerprint
        )
    ]
    failures = []
    for run in tqdm(asked, desc="runs"):
        try:
            found.setdefault(run.task, {})[run.variant.name] = measure(options.plan, run)
        except ValueError as error:
            failures.append(f"{run.task}/{run.variant.name} is left out: {error}")
            continue
        write_measurements(options.output, found)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    # Models of transformers warn about themselves, on every call.
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    main(sys.argv[1:])
