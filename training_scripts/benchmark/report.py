"""Write the report of a benchmark, tables and plots, from its JSON file only.

python -m training_scripts.benchmark.report
"""

import argparse
from pathlib import Path
from typing import Any

from hf_effattn.files import read_json

from .model_entries import BASELINE as MODEL_BASELINE
from .plots import write_plots
from .tables import (
    breakdown_table,
    decode_table,
    memory_table,
    model_table,
    operator_table,
    scenario_title,
    share_table,
    target_table,
    untimed_table,
)
from .targets import targets


RESULTS = Path(__file__).resolve().parents[1] / "results"
JSON_NAME = "benchmark.json"
MARKDOWN_NAME = "benchmark.md"

HOW = """\
Every round runs every candidate once, in random order; times are medians over rounds, ratios are medians of the \
ratios within a round, with quartiles. Every candidate is first compared with a float64 oracle of the function that \
it claims to compute, and gets no time if it fails; its largest relative error stands beside its time. The floor is \
the time that the operator's matrix products need at the rate of a 1024 x 1024 product in float32, timed in the same \
rounds; the ratio that a kernel in exactly that time would reach stands in the column "at the floor", and says how \
much of a target is left to reach. Inputs are [1, 8, N, 64], without projections."""


def main() -> None:
    """Write the report into the folder of the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help=f"folder with {JSON_NAME}")
    write_report(parser.parse_args().output_dir)


def write_report(folder: Path) -> None:
    """Write Markdown and plots beside ``benchmark.json``."""
    results = read_json(folder / JSON_NAME)
    plots = write_plots(results, folder)
    (folder / MARKDOWN_NAME).write_text(render(results, plots))


def render(results: dict[str, Any], plots: list[str]) -> str:
    """The report as Markdown."""
    parts = ["# Benchmark", HOW]
    if any(group["quick"] for group in results.values()):
        parts.append("**Quick form: it shows that everything runs, its numbers mean nothing.**")
    parts += ["## Targets", target_table(targets(results))]
    parts += [f"![{name}]({name})" for name in plots]
    sections = {
        "operators": operator_sections,
        "breakdown": breakdown_sections,
        "models": model_sections,
        "memory": memory_sections,
        "decode": decode_sections,
    }
    for name, section in sections.items():
        if name in results:
            parts += section(results[name])
            parts.append(machine_text(results[name]))
    return "\n\n".join(parts) + "\n"


def operator_sections(operators: dict[str, Any]) -> list[str]:
    """One table per scenario, those of the same operator together."""
    parts = ["## Operators"]
    by_title: dict[str, list[dict[str, Any]]] = {}
    for scenario in operators["scenarios"]:
        by_title.setdefault(scenario_title(scenario), []).append(scenario)
    for title, scenarios in by_title.items():
        parts.append(f"### {title[0].upper()}{title[1:]}")
        for scenario in scenarios:
            parts += [f"N = {scenario['problem']['length']:,}", operator_table(scenario)]
    return [*parts, "### Without a time", untimed_table(operators)]


def breakdown_sections(breakdown: dict[str, Any]) -> list[str]:
    """The table of where the time of the kernels goes."""
    text = (
        "The forward pass of the compiled kernels, float32, bidirectional, each call right after a matrix product. A "
        "feature map costs what its line takes more than SimpleTRON's, which has none; its products count in the "
        "floor, its exponentials, logarithms and divisions do not."
    )
    return ["## Where the time of the kernels goes", text, breakdown_table(breakdown)]


def model_sections(models: dict[str, Any]) -> list[str]:
    """The table of the whole models."""
    size = models["size"]
    text = (
        f"One sequence of {size['max_position_embeddings']:,} tokens, {size['num_hidden_layers']} layers, hidden size "
        f"{size['hidden_size']}, {size['num_attention_heads']} heads, float32, no dropout; a training step is forward "
        "and backward pass and AdamW. Padding is exact if the logits of a padded row and of the row alone agree."
    )
    shares = "Where the time of a training step goes, by torch's profiler:"
    return ["## Models", text, model_table(models, MODEL_BASELINE), shares, share_table(models)]


def memory_sections(memory: dict[str, Any]) -> list[str]:
    """The table of peaks."""
    allocator = ", ".join(f"{name}={value}" for name, value in memory["allocator"].items())
    text = (
        f"Peak resident memory beyond the inputs in MiB (bytes per token), each in a process of its own, {allocator}."
    )
    return ["## Memory", text, memory_table(memory)]


def decode_sections(decode: dict[str, Any]) -> list[str]:
    """The table of decoding steps."""
    return ["## Decoding", decode_table(decode)]


def machine_text(group: dict[str, Any]) -> str:
    """What a group ran on."""
    machine = group["machine"]
    allocator = machine["allocator"]
    if isinstance(allocator, dict):
        allocator = ", ".join(f"{name}={value}" for name, value in allocator.items())
    before, after = (" / ".join(f"{value:.2f}" for value in group[name]) for name in ("load_before", "load_after"))
    return (
        f"Ran on {machine['cpu']} ({machine['vector_instructions']}), {machine['threads']} of {machine['cpu_count']} "
        f"threads, Python {machine['python']}, torch {machine['torch']}, transformers {machine['transformers']}, "
        f"hf_effattn {machine['hf_effattn']}; allocator: {allocator}; load {before} before, {after} after, "
        f"{group['duration_seconds']:.0f} s in all."
    )


if __name__ == "__main__":
    main()
