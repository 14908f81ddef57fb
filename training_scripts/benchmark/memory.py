"""The group "memory": peak memory of the operators against the length, every point in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..measuring.allocator import RETURN_FREED_MEMORY
from .operators import BASELINE
from .problem import MODES, TRAINING
from .settings import Settings


ROOT = Path(__file__).resolve().parents[2]

#: Softmax attention at the greatest length takes minutes; a machine on which it takes longer goes without it.
TIMEOUT_SECONDS = 420

#: Operators, and whether their causal form is measured too.
OPERATORS = {"hf_effattn torch": (False, True), "hf_effattn cpu": (False, True), "torch SDPA": (False,)}


def run_memory(settings: Settings) -> dict[str, Any]:
    """Measure every point."""
    points = [
        {"name": name, "causal": causal, "mode": mode, "length": length}
        for name, directions in OPERATORS.items()
        for causal in directions
        for mode in MODES
        for length in settings.memory_lengths
        # The quick form shows that points are measured at all; a process for each takes seconds.
        if not settings.quick or (name, causal, mode) == (BASELINE, False, TRAINING)
    ]
    return {
        "allocator": RETURN_FREED_MEMORY,
        "points": [measure_point(point, settings) for point in tqdm(points, desc="memory", leave=False)],
    }


def measure_point(point: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The point with its peak, or with the error of its process."""
    request = point | {"check_length": settings.check_length, "threads": torch.get_num_threads()}
    environment = os.environ | RETURN_FREED_MEMORY
    command = [sys.executable, "-m", "training_scripts.benchmark.memory_point", json.dumps(request)]
    try:
        process = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return point | {"error": f"left out: took longer than {TIMEOUT_SECONDS} s"}
    if process.returncode != 0:
        reasons = process.stderr.strip().splitlines()
        return point | {"error": reasons[-1][:300] if reasons else f"ended with code {process.returncode}"}
    measured: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return point | {"error": None} | measured
