"""Loads the metrics of the package."""

import importlib
from pathlib import Path

import evaluate

from ..extras import needs_extra


METRICS = ("accuracy", "exact_match", "f1", "matthews", "perplexity")

#: What some of them import beside evaluate, which names it without its extra.
_IMPORTS = {"accuracy": "scipy.stats", "f1": "sklearn.metrics", "matthews": "sklearn.metrics"}


def load_metric(name: str) -> evaluate.EvaluationModule:
    """Load the metric `name` of this package as a regular `evaluate` module.

    Metrics are combined with ``evaluate.combine([load_metric("accuracy"), load_metric("matthews")])``.

    Raises:
        ValueError: the package has no such metric.
        MissingPackageError: a package that it computes with is missing.
    """
    if name not in METRICS:
        raise ValueError(f"hf_effattn ships the metrics {METRICS}, not {name!r}")
    if name in _IMPORTS:
        with needs_extra("train"):
            importlib.import_module(_IMPORTS[name])
    return evaluate.load(str(Path(__file__).parent / name / f"{name}.py"))
