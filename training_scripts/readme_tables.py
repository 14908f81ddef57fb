"""Write the README's generated tables: the families, from the registry, and results of quickstart and benchmark.

python -m training_scripts.readme_tables                      # renders the tables again
python -m training_scripts.readme_tables --runs runs/quickstart   # takes over new results first
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from tabulate import tabulate

import hf_effattn
from hf_effattn.families import Family
from hf_effattn.files import read_json, write_json
from hf_effattn.training.results import RESULTS, RunResults, RunSummary

from .benchmark.models import TRAINING_STEP
from .benchmark.operators import BASELINE
from .benchmark.problem import FORWARD, TRAINING
from .benchmark.ratios import best_peer, find_scenario, ratio_between, times_of
from .benchmark.settings import Settings
from .benchmark.targets import OUR_CPU, SOFTMAX
from .measuring.ratios import Spread, median_seconds
from .quickstart import quickstart_table


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
QUICKSTART = ROOT / "training_scripts/results/quickstart.json"
BENCHMARK = ROOT / "training_scripts/results/benchmark.json"
GPU = ROOT / "training_scripts/results/gpu-nvidia-h100-torch2.11.0-triton3.6.0.json"


def main() -> None:
    """Take over results if asked to, and write the tables into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="output folder of the quickstart whose results to take over")
    runs = parser.parse_args().runs
    if runs is not None:
        found = {path.parent.name: RunResults.load(path) for path in sorted(runs.glob(f"*/{RESULTS}"))}
        write_json(QUICKSTART, {model: keep(results).to_dict() for model, results in found.items()})
    README.write_text(with_tables(README.read_text()))


def keep(results: RunResults) -> RunSummary:
    """The part of a run's results that stands in the repository, without the paths of the machine."""
    config = {name: value for name, value in results.model_config.items() if not name.startswith("_")}
    return dataclasses.replace(results.summary(), model_config=config)


def with_tables(readme: str) -> str:
    """The README with its tables as they are now.

    Raises:
        ValueError: the README lacks the markers of a table.
    """
    benchmark = read_json(BENCHMARK)
    tables = {
        "families": families_table(),
        "quickstart": quickstart_table(
            {model: RunSummary.from_dict(content) for model, content in read_json(QUICKSTART).items()}
        ),
        "operators": operators_table(benchmark),
        "models": models_table(benchmark),
        "gpu": gpu_table(read_json(GPU)),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if readme.count(start) != 1 or readme.count(end) != 1:
            raise ValueError(f"the README needs the markers {start.strip()} and {end} once each")
        head, rest = readme.split(start)
        readme = head + start + table + "\n" + end + rest.split(end)[1]
    return readme


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
