"""`evaluate` modules that ship with the package, and evaluate's evaluators, so that scoring needs no network."""

from ..extras import needs_extra


with needs_extra("train"):
    from .evaluators import evaluator
    from .loading import METRICS, load_metric


__all__ = ["METRICS", "evaluator", "load_metric"]
