"""The quickstart's table: every model beside the yardstick."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from hf_effattn.training.results import RunSummary, require


HEADERS = ["model", "test accuracy", "95 % interval", "tokens/s", "4,096 pieces", "peak memory", "parameters"]

#: Name of the file with time and memory against length, in the output folder of a model.
LENGTHS_FILE = "lengths.json"
#: The length of the text whose time stands in the table.
LONG = 4096
YARDSTICK = "TF-IDF, logistic regression"


def table_rows(
    results: Mapping[str, RunSummary], lengths: Mapping[str, list[dict[str, Any]]], yardstick: Mapping[str, Any]
) -> list[list[str]]:
    """One row per model: accuracy with its interval, speed of training, time for a long review, memory, size."""
    rows = []
    for model, result in results.items():
        accuracy, low, high = result.accuracy()
        speed = require(result.tokens_per_second, "tokens_per_second")
        seconds = [point["seconds"] for point in lengths[model] if point["length"] == LONG]
        rows.append(
            [
                model,
                *shares(accuracy, low, high),
                f"{speed:,.0f}",
                f"{1000 * seconds[0]:,.0f} ms" if seconds else "–",
                f"{result.peak_memory_bytes / 2**20:,.0f} MiB",
                f"{result.parameters:,}",
            ]
        )
    scores = shares(*(yardstick[name] for name in ("accuracy", "accuracy_low", "accuracy_high")))
    return [*rows, [YARDSTICK, *scores, "–", "–", "–", f"{yardstick['parameters']:,}"]]


def shares(accuracy: float, low: float, high: float) -> list[str]:
    """The cells of an accuracy and its interval."""
    return [f"{accuracy:.1%}", f"{low:.1%} to {high:.1%}"]


def quickstart_table(content: Mapping[str, Any]) -> str:
    """The table of results as they are kept in the repository."""
    results = {model: RunSummary.from_dict(result) for model, result in content["models"].items()}
    rows = table_rows(results, content["lengths"], content["yardstick"])
    return tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True)
