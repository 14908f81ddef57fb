"""Write the generated tables of the README and of docs/: the families, from the registry, and measured results.

python -m training_scripts.readme_tables                      # renders the tables again
python -m training_scripts.readme_tables --runs runs/quickstart   # takes over new results first
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

import hf_effattn
from hf_effattn.families import Family
from hf_effattn.files import read_json, write_json
from hf_effattn.training.results import RESULTS, RunResults, RunSummary

from .arena.plan import Plan, read_plan
from .arena.scores import ScoreTable, read_scores
from .arena.tables import average
from .benchmark.models import TRAINING_STEP
from .benchmark.operators import BASELINE
from .benchmark.problem import FORWARD, TRAINING
from .benchmark.ratios import best_peer, find_scenario, ratio_between, times_of
from .benchmark.settings import Settings
from .benchmark.targets import OUR_CPU, SOFTMAX
from .measuring.ratios import Spread, median_seconds
from .quickstart.tables import LENGTHS_FILE, quickstart_table


ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "training_scripts/results/quickstart.json"
BENCHMARK = ROOT / "training_scripts/results/benchmark.json"
GPU = ROOT / "training_scripts/results/gpu-nvidia-h100-torch2.11.0-triton3.6.0.json"

#: Document -> the tables that stand in it, each between the markers of its name.
DOCUMENTS = {
    "README.md": ("families", "quickstart"),
    "docs/choose.md": ("choice", "families"),
    "docs/index.md": ("quickstart",),
    "docs/speed.md": ("operators", "models", "gpu"),
}

#: Variant of the arena -> what the benchmark of whole models calls the same attention, if it was measured there.
CHOICES = {
    "softmax": "vanilla_transformer",
    "softmax-conv": None,
    "simpletron": "simpletron",
    "simpletron-conv": None,
    "elu": "kernel_transformer, elu",
    "elu-conv": None,
    "glu": "kernel_transformer, glu",
    "glu-conv": None,
    "luna": "luna",
    "convluna-conv": "convluna",
    "convluna-pool": None,
    "memory": None,
    "memory-conv": None,
}


def main() -> None:
    """Take over results if asked to, and write the tables into the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="output folder of the quickstart whose results to take over")
    runs = parser.parse_args().runs
    if runs is not None:
        write_json(QUICKSTART, quickstart_results(runs))
    tables = all_tables()
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(with_tables(name, path.read_text(), tables))


def quickstart_results(runs: Path) -> dict[str, Any]:
    """What the repository keeps of the quickstart's output folder."""
    found = {path.parent.name: RunResults.load(path) for path in sorted(runs.glob(f"*/{RESULTS}"))}
    return {
        "models": {model: keep(results).to_dict() for model, results in found.items()},
        "lengths": {model: read_json(runs / model / LENGTHS_FILE) for model in found},
        "yardstick": read_json(runs / "yardstick.json"),
    }


def keep(results: RunResults) -> RunSummary:
    """The part of a run's results that stands in the repository, without the paths of the machine."""
    config = {name: value for name, value in results.model_config.items() if not name.startswith("_")}
    return dataclasses.replace(results.summary(), model_config=config)


def all_tables() -> dict[str, str]:
    """Every generated table by its name, as it is now."""
    benchmark = read_json(BENCHMARK)
    plan = read_plan()
    return {
        "families": families_table(),
        "quickstart": quickstart_table(read_json(QUICKSTART)),
        "choice": choice_table(plan, read_scores(plan), benchmark),
        "operators": operators_table(benchmark),
        "models": models_table(benchmark),
        "gpu": gpu_table(read_json(GPU)),
    }


def with_tables(name: str, text: str, tables: Mapping[str, str]) -> str:
    """A document with its tables as they are now.

    Args:
        name: the document, one of `DOCUMENTS`.
        text: its content.
        tables: `all_tables`.

    Raises:
        ValueError: the document lacks the markers of a table.
    """
    for table in DOCUMENTS[name]:
        start, end = f"<!-- {table} -->\n", f"<!-- /{table} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"{name} needs the markers {start.strip()} and {end} once each")
        head, rest = text.split(start)
        text = head + start + tables[table] + "\n" + end + rest.split(end)[1]
    return text


def families_table() -> str:
    """One line per family of the registry."""
    headers = ["model_type", "classes", "attention of a head", "cost", "causal", "decoding state"]
    rows = [
        [
            f"`{family.model_type}`",
            f"`{family.name}…`",
            family.attention,
            family.cost,
            yes_or_no(family.causal),
            decoding_state(family),
        ]
        for family in hf_effattn.list_families()
    ]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def decoding_state(family: Family) -> str:
    """What a decoder of the family keeps, if it has any."""
    if not family.causal:
        return "–"
    return "constant" if family.constant_state else "grows with the context"


def choice_table(plan: Plan, scores: ScoreTable, benchmark: dict[str, Any]) -> str:
    """What a variant scores on the arena, and its training step on a long sequence in steps of softmax attention."""
    steps = {
        entry["name"]: median_seconds(entry["seconds"][TRAINING_STEP])
        for entry in benchmark["models"]["entries"]
        if TRAINING_STEP in entry["seconds"]
    }
    without = [task for task in plan.tasks if task not in plan.apart]
    rows = []
    for name, entry in CHOICES.items():
        variant = plan.variants[name]
        options = ", ".join(f"{key}={value}" for key, value in variant.options.items())
        means = [average([scores[task, name] for task in tasks]) for tasks in (without, plan.apart)]
        step = "–" if entry is None else f"{steps[entry] / steps['vanilla_transformer']:.2f}"
        rows.append([variant.title, f"`{variant.model_type}`", f"`{options}`" if options else "–", *means, step])
    headers = ["variant", "model_type", "options", "accuracy, %", "recall, %", "step at 4,096 tokens"]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def operators_table(benchmark: dict[str, Any]) -> str:
    """Time of linear attention on the compiled kernels, and how many times as long others take."""
    headers = ["direction", "pass", "N", "ms", "plain torch", "fastest library, same function", "softmax (SDPA)"]
    rows = []
    for causal in (False, True):
        for mode in (FORWARD, TRAINING):
            for length in Settings().lengths:
                scenario = find_scenario(benchmark, mode, causal=causal, length=length)
                peer = best_peer(scenario)
                others = [
                    times_as_long(ratio_between(scenario, name, OUR_CPU) if name else None)
                    for name in (BASELINE, peer, SOFTMAX)
                ]
                others[1] += f" ({peer})" if peer else ""
                milliseconds = f"{median_seconds(times_of(scenario, OUR_CPU) or []) * 1e3:.2f}"
                direction = "causal" if causal else "bidirectional"
                rows.append([direction, mode, f"{length:,}", milliseconds, *others])
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def models_table(benchmark: dict[str, Any]) -> str:
    """Time of a training step and of a forward pass of every model, the fastest step first."""
    headers = ["model", "training step, ms", "forward, ms", "parameters"]
    entries = [entry for entry in benchmark["models"]["entries"] if TRAINING_STEP in entry["seconds"]]
    entries.sort(key=lambda entry: median_seconds(entry["seconds"][TRAINING_STEP]))
    rows = [
        [
            entry["name"],
            *(f"{median_seconds(entry['seconds'][label]) * 1e3:,.0f}" for label in (TRAINING_STEP, FORWARD)),
            f"{entry['parameters']:,}",
        ]
        for entry in entries
    ]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def gpu_table(results: dict[str, Any]) -> str:
    """Times on a GPU of what was measured there, as a CUDA graph replays it, beside softmax and the memory's floor."""
    headers = [
        "direction",
        "B, H, N, D",
        "attention",
        "forward, ms",
        "× floor",
        "with gradients, ms",
        "× floor",
        "error",
    ]
    rows = []
    for direction in ("causal", "bidirectional"):
        for row in results["parts"][direction]:
            if "shape" not in row:
                continue
            cells = []
            for what in ("forward", "with gradients"):
                milliseconds = row[what]["graph ms"]
                cells += [f"{milliseconds:.3f}", f"{milliseconds / row[f'{what}, floor']:.1f}"]
            error = f"{row['error']:.1e}" if "error" in row else "–"
            shape = ", ".join(f"{size:,}" for size in row["shape"])
            rows.append([direction, shape, row["name"], *cells, error])
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def times_as_long(value: Spread | None) -> str:
    """A ratio in the tables."""
    return "–" if value is None else f"{value.median:.1f} ×"


def yes_or_no(value: bool) -> str:
    """How the tables say it."""
    return "yes" if value else "no"


if __name__ == "__main__":
    main()
