"""Train every variant of attention on every task of the CPU arena, with every seed.

    python -m training_scripts.arena.run                         # all missing runs, some hours on two cores
    python -m training_scripts.arena.run --task text --variant luna convluna-conv
    python -m training_scripts.arena.run --minutes 90            # start no run after that; go on another day

``make arena`` does this, measures the costs, and writes `RESULTS.md`. Every run is a process of ``run_lra.py`` on one
core. A run that was stopped goes on from its last whole checkpoint. When it ends, its result is added to the file of
its task. A run that has a result is not trained again; a damaged file, or a result of another recipe, is refused.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from hf_effattn.training.checkpoints import is_finished
from hf_effattn.training.results import RESULTS as RUN_RESULTS
from hf_effattn.training.results import RunResults
from training_scripts.arena.plan import PLAN, Plan, Run, read_plan
from training_scripts.arena.results import RESULTS, load_results, remove_stale, save_error, save_outcome


SCRIPT = Path(__file__).resolve().parents[1] / "run_lra.py"
RUNS = Path("runs/arena")

#: Arguments of every run that change nothing about its result.
QUIET = ["--disable_tqdm=true", "--resume=true", "--dataloader_pin_memory=false", "--use_cpu=true"]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, help="another arena.yaml")
    parser.add_argument("--task", nargs="+", help="only these tasks")
    parser.add_argument("--variant", nargs="+", help="only these variants")
    parser.add_argument("--seed", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    parser.add_argument("--minutes", type=float, help="start no run after this time")
    parser.add_argument("--replace-stale", action="store_true", help="train again the runs whose recipe has changed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs that have not ended")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Train the missing runs; exit with status 1 if some are still missing."""
    options = parse(arguments)
    plan = read_plan(options.plan)
    options.results.mkdir(parents=True, exist_ok=True)
    # By default a SIGTERM would end this process, but not those that train.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Two arenas would train the same runs and remove each other's folders.
        with FileLock(options.results / ".lock", timeout=0):
            missing = missing_runs(chosen_runs(plan, options), options)
            failures = Workers(options).train(missing)
            left = missing_runs(chosen_runs(plan, options), options)
    except Timeout:
        sys.exit(f"another arena writes to {options.results}: wait for it, or give --results another folder")
    print("\n".join([*failures, f"{len(missing) - len(left)} runs done, {len(left)} still to do"]))
    sys.exit(1 if left else 0)


def chosen_runs(plan: Plan, options: argparse.Namespace) -> list[Run]:
    """The runs that the options select.

    Raises:
        ValueError: the plan does not have a task, variant or seed that they name.
    """
    for kind, asked, known in (
        ("task", options.task, plan.tasks),
        ("variant", options.variant, plan.variants),
        ("seed", options.seed, plan.seeds),
    ):
        if unknown := set(asked or ()) - set(known):
            raise ValueError(f"unknown {kind} {sorted(unknown)}; the plan has {list(known)}")
    return [
        run
        for run in plan.runs()
        if run.task in (options.task or plan.tasks)
        and run.variant.name in (options.variant or plan.variants)
        and run.seed in (options.seed or plan.seeds)
    ]


def missing_runs(runs: list[Run], options: argparse.Namespace) -> list[Run]:
    """The runs that have no result yet.

    Raises:
        ValueError: a file of results is damaged, or a result comes from another recipe and is not to be replaced.
    """
    if options.replace_stale:
        remove_stale(runs, options.results)
    done = load_results(runs, options.results)
    return [run for run in runs if run.name not in done]


#: Exceptions that a machine caused, not a model.
CAUSED_BY_THE_MACHINE = r"interrupt|memory|alloc|no space|killed|resource"


class Workers:
    """Trains several runs at a time.

    Args:
        options: the options of the command line.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.deadline = time.monotonic() + 60 * options.minutes if options.minutes is not None else float("inf")
        self.stopped = threading.Event()
        self.processes: set[subprocess.Popen[bytes]] = set()

    def train(self, runs: list[Run]) -> list[str]:
        """Train `runs` in their order; an interrupt stops those that have started, and keeps their checkpoints.

        Returns:
            The runs that failed unexpectedly, each with the reason.
        """
        failures = []
        with concurrent.futures.ThreadPoolExecutor(self.options.workers) as pool:
            jobs = [pool.submit(self.train_one, run) for run in runs]
            try:
                for job in tqdm(concurrent.futures.as_completed(jobs), total=len(jobs), desc="runs"):
                    failures.append(job.result())
            except BaseException:
                self.stopped.set()
                for process in list(self.processes):
                    process.terminate()
                raise
        return [failure for failure in failures if failure]

    def train_one(self, run: Run) -> str | None:
        """Train a run and save its result, or return the reason why it has none."""
        if self.stopped.is_set() or time.monotonic() > self.deadline:
            return None
        # A run of another recipe has another folder, so no run resumes from it.
        folder = self.options.runs / f"{run.name}-{run.fingerprint[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        if not is_finished(folder) and (code := self.call(run, folder)):
            return self.failed(run, folder, code)
        save_outcome(run, RunResults.load(folder / RUN_RESULTS), self.options.results)
        shutil.rmtree(folder)
        return None

    def call(self, run: Run, folder: Path) -> int:
        """Run ``run_lra.py`` to its end; return its exit code."""
        command = [sys.executable, str(SCRIPT), *run.command_line(), *QUIET, f"--output_dir={folder}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with (folder / "output.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            self.processes.add(process)
            if self.stopped.is_set():
                process.terminate()
            code = process.wait()
            self.processes.discard(process)
        return code

    def failed(self, run: Run, folder: Path, code: int) -> str | None:
        """The reason why a run has no result; an exception in a model of transformers is saved as its result."""
        text = (folder / "output.log").read_text(errors="replace").strip()
        if self.stopped.is_set():
            return None
        lines, raised = text.splitlines(), exception_of(run.variant.model_type, text)
        if run.variant.builtin and raised is not None:
            save_error(run, raised, self.options.results)
            return None
        return (
            f"{run.name} ended with code {code}: {lines[-1] if lines else 'it printed nothing'} ({folder}/output.log)"
        )


def exception_of(model_type: str, log: str) -> str | None:
    """The exception that ended a run, if the code of this model type in transformers raised it or called what did."""
    _, found, traceback = log.rpartition("Traceback (most recent call last):")
    if not found or f"/transformers/models/{model_type}/" not in traceback:
        return None
    ends = [line for line in traceback.splitlines() if re.match(r"[A-Za-z_.]+(Error|Exception|Interrupt)\b", line)]
    return ends[-1] if ends and not re.search(CAUSED_BY_THE_MACHINE, ends[-1], re.IGNORECASE) else None


if __name__ == "__main__":
    main(sys.argv[1:])
