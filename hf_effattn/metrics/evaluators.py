"""Evaluate's evaluators, which score a pipeline on a data set, made to work with transformers 5.

`evaluate` 0.4.6 asks whether a model is a ``transformers.TFPreTrainedModel``, a name that transformers 5 no longer
has, so every evaluator of it raises AttributeError. Nothing is patched here: the one method that asks is overridden.
"""

from collections.abc import Callable
from typing import Any

import evaluate
from evaluate.evaluator import SUPPORTED_EVALUATOR_TASKS, Evaluator
from transformers import FeatureExtractionMixin, Pipeline, PreTrainedModel, TokenizersBackend, pipeline
from transformers.pipelines import SUPPORTED_TASKS, TASK_ALIASES

from .loading import METRICS, load_metric


class LocalEvaluator(Evaluator):
    """Goes between an evaluator of a task and the base of all: makes its pipeline, and finds its metric offline."""

    def prepare_pipeline(
        self,
        model_or_pipeline: str | PreTrainedModel | Pipeline | Callable[..., Any] | None,
        tokenizer: str | TokenizersBackend | None = None,
        feature_extractor: str | FeatureExtractionMixin | None = None,
        device: int | None = None,
    ) -> Pipeline | Callable[..., Any]:
        """The pipeline itself, or one of the model or the checkpoint's folder, by default on the first GPU if any.

        Raises:
            ValueError: there is no model, or the pipeline is one for another task.
        """
        if model_or_pipeline is None:
            raise ValueError("model_or_pipeline is None; give a model, the folder of a checkpoint, or a pipeline")
        made = model_or_pipeline
        if isinstance(made, (str, PreTrainedModel)):
            made = pipeline(
                self.task,
                model=made,
                tokenizer=tokenizer,
                feature_extractor=feature_extractor,
                device=self._infer_device() if device is None else device,
            )
        if (task := getattr(made, "task", None)) != self.task:
            raise ValueError(f"the pipeline is one for {task!r}, the evaluator one for {self.task!r}")
        return made

    def prepare_metric(self, metric: str | evaluate.EvaluationModule | None) -> evaluate.EvaluationModule:
        """The metric itself, or the one of that name: this package's if it has one, else what `evaluate` finds."""
        name = self.default_metric_name if metric is None else metric
        return load_metric(name) if name in METRICS else super().prepare_metric(name)


def evaluator(task: str) -> Evaluator:
    """What ``evaluate.evaluator(task)`` gives, for transformers 5 and with the metrics of this package.

    The tasks of this library's models are ``"text-classification"``, ``"token-classification"`` and
    ``"text-generation"``, and ``"image-classification"`` for checkpoints with an image processor. A metric is one of
    `METRICS` by its name, or any `evaluate` module; token classification wants one that takes lists of label names.

    Raises:
        ValueError: `evaluate` has no evaluator for the task, or transformers has no pipeline for it. That is so of
            ``"question-answering"``; score answers with ``load_metric("exact_match")``.
    """
    task = TASK_ALIASES.get(task, task)
    tasks = sorted(set(SUPPORTED_EVALUATOR_TASKS) & set(SUPPORTED_TASKS))
    if task not in tasks:
        remedy = "; score answers with load_metric('exact_match')" if task == "question-answering" else ""
        raise ValueError(
            f"evaluate and transformers do not both know the task {task!r}{remedy}; evaluators there are for {tasks}"
        )
    known = SUPPORTED_EVALUATOR_TASKS[task]
    base = known["implementation"]
    return type(base.__name__, (base, LocalEvaluator), {})(task=task, default_metric_name=known["default_metric_name"])
