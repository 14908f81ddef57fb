"""`evaluate` modules that ship with the package, so that scoring needs no network."""

from pathlib import Path

import evaluate


METRICS = ("accuracy", "f1")


def load_metric(name: str) -> evaluate.EvaluationModule:
    """The metric module `name` of this package, a regular `evaluate` module.

    Raises:
        ValueError: if the package has no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"hf_effattn ships the metrics {METRICS}, not {name!r}")
    return evaluate.load(str(Path(__file__).parent / name / f"{name}.py"))
