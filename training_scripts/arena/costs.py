"""Measure how long a training step of every variant takes on every task of the arena.

    python -m training_scripts.arena.costs                # missing tasks, on a machine that does nothing else
    python -m training_scripts.arena.costs --task text    # one task again

The steps of all variants of a task are timed side by side, in rounds, on the first batch of the task. Variants of this
library are also timed under autocast to bfloat16, which the runs do not use. The script writes ``costs.json`` beside
the results of the runs.
"""

import dataclasses
import sys
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from hf_effattn.files import read_json
from hf_effattn.training.lra import LraArguments, Prepared, prepare
from hf_effattn.training.measure import environment
from training_scripts.arena.command_line import measuring_parser, silence_warnings
from training_scripts.arena.plan import Plan, Run, read_plan
from training_scripts.arena.results import RESULTS, write_measurements
from training_scripts.measuring.allocator import restart_keeping_memory
from training_scripts.measuring.timing import Rounds, Runner, interleave


COSTS = RESULTS / "costs.json"

#: Seconds for the rounds of a task.
BUDGET = 60.0
#: Prefix of a variant's name: its steps under autocast to bfloat16.
BF16 = "bf16 "


class Step:
    """A training step of a run on its first batch.

    Args:
        run: the run.
        prepared: its model and its data.
    """

    def __init__(self, run: Run, prepared: Prepared):
        rows = prepared.encoded["train"]
        rows = rows.select(range(run.arguments["per_device_train_batch_size"]))
        self.batch = prepared.batch(rows)
        self.model = prepared.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)

    def __call__(self, bf16: bool = False) -> None:
        """Run forward, with `bf16` under autocast, then backward, then update the weights."""
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = self.model(**self.batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def step_of(run: Run) -> Step:
    """The training step of a run, with its model and data."""
    names = {field for field in LraArguments.__dataclass_fields__ if field in run.arguments}
    torch.manual_seed(run.seed)
    return Step(run, prepare(LraArguments(**{name: run.arguments[name] for name in names - {"diagnose"}})))


def measure_task(plan: Plan, task: str, budget: float) -> dict[str, dict[str, Any]]:
    """Variant -> its times on a task, or the error that its model of transformers raises.

    Raises:
        RuntimeError: a model of this library fails.
    """
    runs = {name: plan.first_run(task, name) for name in plan.variants}
    steps = {name: step_of(run) for name, run in runs.items()}
    runners = [Runner(name, step) for name, step in steps.items()]
    runners += [Runner(BF16 + name, partial(steps[name], True)) for name in runs if not runs[name].variant.builtin]
    timings = interleave(runners, Rounds(), budget, seed=0, label=task)
    costs: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        costs[name] = {"fingerprint": run.fingerprint, "error": None}
        if (error := timings.errors.get(name)) is None:
            costs[name]["seconds"] = timings.seconds[name]
        elif run.variant.builtin:
            costs[name]["error"] = f"{type(error).__name__}: {error}"
        else:
            raise RuntimeError(f"{run.name} fails") from error
        if not run.variant.builtin:
            if error := timings.errors.get(BF16 + name):
                raise RuntimeError(f"{run.name} fails in bfloat16") from error
            costs[name]["bf16_seconds"] = timings.seconds[BF16 + name]
    return costs


def is_measured(plan: Plan, task: str, costs: dict[str, Any]) -> bool:
    """Whether `costs` has current times of every variant on a task."""
    variants = costs["tasks"].get(task, {}).get("variants", {})
    return all(plan.is_current(task, name, variants.get(name, {})) for name in plan.variants)


def main(arguments: list[str]) -> None:
    """Measure task by task; the file is written after each."""
    parser = measuring_parser(__doc__, COSTS)
    parser.add_argument("--task", nargs="+", help="only these tasks, measured or not")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of rounds per task")
    options = parser.parse_args(arguments)
    plan = read_plan(options.plan)
    # As in the runs of the arena, which share a machine.
    torch.set_num_threads(1)
    costs = read_json(options.output) if options.output.is_file() else {"tasks": {}}
    missing = [task for task in plan.tasks if not is_measured(plan, task, costs)]
    absent = []
    for task in tqdm(options.task or missing, desc="tasks"):
        try:
            variants = measure_task(plan, task, options.budget)
        except ValueError as error:
            absent.append(f"{task} is left out: {error}")
            continue
        costs["tasks"][task] = {"variants": variants, "environment": dataclasses.asdict(environment())}
        write_measurements(options.output, costs)
    if absent:
        sys.exit("\n".join(absent))


if __name__ == "__main__":
    silence_warnings()
    restart_keeping_memory()
    main(sys.argv[1:])
