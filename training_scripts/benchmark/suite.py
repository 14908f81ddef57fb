"""Run groups of the benchmark and keep each as soon as it is done."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_effattn.files import read_json, write_json

from .breakdown import run_breakdown
from .decode import run_decode
from .machine import describe_machine, load_average
from .memory import run_memory
from .models import run_models
from .operators import run_operators
from .report import JSON_NAME, write_report
from .settings import Settings


RUN: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "operators": run_operators,
    "breakdown": run_breakdown,
    "models": run_models,
    "memory": run_memory,
    "decode": run_decode,
}


def run_groups(groups: Sequence[str], settings: Settings, folder: Path, resume: bool = False) -> None:
    """Run `groups`, write each into ``benchmark.json`` of `folder`, and the report after every one.

    With `resume`, a group that is there with the same settings is kept as it is.

    Raises:
        ValueError: the folder holds results of the other form, quick or full.
    """
    path = folder / JSON_NAME
    results: dict[str, Any] = read_json(path) if path.exists() else {}
    if any(group["quick"] != settings.quick for group in results.values()):
        raise ValueError(
            f"{path} holds results of the {'full' if settings.quick else 'quick'} form: use another folder"
        )
    # As JSON has it, so that it equals what is read back.
    described = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(settings).items()
    }
    for name in groups:
        if resume and results.get(name, {}).get("settings") == described:
            print(f"{name}: already there")
            continue
        results[name] = run_group(name, settings) | {"settings": described}
        write_json(path, results)
        write_report(folder)
        print(f"{name}: {results[name]['duration_seconds']:.0f} s, written to {path}")


def run_group(name: str, settings: Settings) -> dict[str, Any]:
    """One group with what it ran on."""
    before, started = load_average(), time.perf_counter()
    measured = RUN[name](settings)
    return measured | {
        "quick": settings.quick,
        "machine": describe_machine(),
        "load_before": before,
        "load_after": load_average(),
        "duration_seconds": time.perf_counter() - started,
    }
