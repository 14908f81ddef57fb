"""Loads the metric modules of the package."""

from pathlib import Path

import evaluate


METRICS = ("accuracy", "exact_match", "f1", "matthews", "perplexity")


def load_metric(name: str) -> evaluate.EvaluationModule:
    """The metric module `name` of this package, a regular `evaluate` module.

    Several of them make one with ``evaluate.combine([load_metric("accuracy"), load_metric("matthews")])``.

    Raises:
        ValueError: if the package has no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"hf_effattn ships the metrics {METRICS}, not {name!r}")
    return evaluate.load(str(Path(__file__).parent / name / f"{name}.py"))
