"""Measure the peak memory of a training step of every variant on every task of the arena.

    python -m training_scripts.arena.memory                # missing measurements
    python -m training_scripts.arena.memory --task text    # one task again

Each measurement is made in a process of its own, on the first batch of the task, so other work on the machine does not
matter. The script writes ``memory.json`` beside the results of the runs.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hf_effattn.files import read_json
from hf_effattn.machine import peak_resident_bytes
from training_scripts.arena.command_line import measuring_parser, silence_warnings
from training_scripts.arena.costs import step_of
from training_scripts.arena.plan import Run, read_plan
from training_scripts.arena.results import RESULTS, write_measurements
from training_scripts.measuring.allocator import RETURN_FREED_MEMORY
from training_scripts.measuring.peak_memory import reset_peak, status_bytes


MEMORY = RESULTS / "memory.json"

#: Number of steps after which the memory of a run no longer grows.
STEPS = 3


def measure(plan_file: Path, run: Run) -> dict[str, Any]:
    """The result of `memory_point` in a process of its own.

    Raises:
        ValueError: the process fails, for example because the data are missing; the message is its last line.
    """
    command = [sys.executable, "-m", "training_scripts.arena.memory", f"--plan={plan_file}"]
    command += ["--point", run.task, run.variant.name]
    done = subprocess.run(command, env=os.environ | RETURN_FREED_MEMORY, capture_output=True, text=True)
    if done.returncode:
        raise ValueError((done.stderr.splitlines() or ["no output"])[-1])
    return {"fingerprint": run.fingerprint, **json.loads(done.stdout.splitlines()[-1])}


def memory_point(run: Run) -> dict[str, Any]:
    """Peak memory of a few steps, without what the process holds before them; or the error of a model of transformers.

    The peak includes gradients and the optimizer's two moments. They do not depend on attention, and are returned as
    ``state_bytes``.
    """
    # The first product loads the libraries that every model needs.
    torch.autograd.backward(torch.randn(64, 64, requires_grad=True).square().mm(torch.randn(64, 64)).sum())
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
    """Measure one variant after another; the file is written after each."""
    parser = measuring_parser(__doc__, MEMORY)
    parser.add_argument("--task", nargs="+", help="only these tasks, measured or not")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    plan = read_plan(options.plan)
    # As in the runs of the arena, which share a machine.
    torch.set_num_threads(1)
    if options.point:
        task, variant = options.point
        print(json.dumps(memory_point(plan.first_run(task, variant))))
        return
    peaks = read_json(options.output) if options.output.is_file() else {}
    failures = []
    for task, variant in tqdm([(task, variant) for task in options.task or plan.tasks for variant in plan.variants]):
        if options.task is None and plan.is_current(task, variant, peaks.get(task, {}).get(variant, {})):
            continue
        try:
            peaks.setdefault(task, {})[variant] = measure(options.plan, plan.first_run(task, variant))
        except ValueError as error:
            failures.append(f"{task}/{variant} is left out: {error}")
            continue
        write_measurements(options.output, peaks)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    silence_warnings()
    main(sys.argv[1:])
