"""Write the README's generated tables: the families, from the registry, and the quickstart's results.

python training_scripts/readme_tables.py                      # renders the tables again
python training_scripts/readme_tables.py --runs runs/quickstart   # takes over new results first
"""

import argparse
from pathlib import Path
from typing import Any

from tabulate import tabulate

import hf_effattn
from hf_effattn.files import read_json, write_json


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
QUICKSTART = ROOT / "training_scripts/results/quickstart.json"

#: What of a run's results.json is kept in the repository; the log and the machine's details stay with the run.
KEPT = ("parameters", "steps", "test", "tokens_per_second", "peak_memory_bytes", "data", "environment", "model_config")


def main() -> None:
    """Take over results if asked to, and write both tables into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="output folder of the quickstart whose results to take over")
    runs = parser.parse_args().runs
    if runs is not None:
        models = sorted(path.parent.name for path in runs.glob("*/results.json"))
        write_json(QUICKSTART, {model: keep(read_json(runs / model / "results.json")) for model in models})
    README.write_text(with_tables(README.read_text()))


def keep(results: dict[str, Any]) -> dict[str, Any]:
    """The part of a run's results that says what was measured, and on what, without the paths of the machine."""
    kept = {name: results[name] for name in KEPT}
    kept["model_config"] = {name: value for name, value in kept["model_config"].items() if not name.startswith("_")}
    return kept


def with_tables(readme: str) -> str:
    """The README with both tables as they are now.

    Raises:
        ValueError: the README lacks the markers of a table.
    """
    tables = {"families": families_table(), "quickstart": quickstart_table(read_json(QUICKSTART))}
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if readme.count(start) != 1 or readme.count(end) != 1:
            raise ValueError(f"the README needs the markers {start.strip()} and {end} once each")
        head, rest = readme.split(start)
        readme = head + start + table + "\n" + end + rest.split(end)[1]
    return readme


def families_table() -> str:
    """One line per family of the registry."""
    headers = ["model_type", "classes", "attention of a head", "cost", "causal", "decoding state", "pairs", "images"]
    rows = [
        [
            f"`{family.model_type}`",
            f"`{family.name}…`",
            family.attention,
            family.cost,
            yes_or_no(family.causal),
            "constant" if family.constant_state else "grows with the context",
            yes_or_no(family.pairs),
            yes_or_no(family.images),
        ]
        for family in hf_effattn.list_families()
    ]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def quickstart_table(results: dict[str, dict[str, Any]]) -> str:
    """One line per model of the quickstart: accuracy with its interval, speed, memory, size."""
    headers = ["model", "test accuracy", "95 % interval", "tokens/s", "peak memory", "parameters"]
    rows = [
        [
            model,
            f"{result['test']['test_accuracy']:.1%}",
            f"{result['test']['test_accuracy_low']:.1%} to {result['test']['test_accuracy_high']:.1%}",
            f"{result['tokens_per_second']:,.0f}",
            f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB",
            f"{result['parameters']:,}",
        ]
        for model, result in results.items()
    ]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def yes_or_no(value: bool) -> str:
    """How the tables say it."""
    return "yes" if value else "no"


if __name__ == "__main__":
    main()
