"""Loads the metrics of the package."""

from pathlib import Path

import evaluate


METRICS = ("accuracy", "exact_match", "f1", "matthews", "perplexity")


def load_metric(name: str) -> evaluate.EvaluationModule:
    """Load the metric `name` of this package as a regular `evaluate` module.

    Metrics are combined with ``evaluate.combine([load_metric("accuracy"), load_metric("matthews")])``.

    Raises:
        ValueError: the package has no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"hf_effattn ships the metrics {METRICS}, not {name!r}")
    return evaluate.load(str(Path(__file__).parent / name / f"{name}.py"))
