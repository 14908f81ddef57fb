"""The evaluators of `evaluate`, which score a pipeline on a data set, made to work with transformers 5.

`evaluate` 0.4.6 asks whether a model is a ``transformers.TFPreTrainedModel``. transformers 5 does not have this name,
so every evaluator raises AttributeError. A subclass overrides the one method that asks; nothing is patched.
"""

from collections.abc import Callable
from typing import Any

import evaluate
from evaluate.evaluator import SUPPORTED_EVALUATOR_TASKS, Evaluator
from transformers import FeatureExtractionMixin, Pipeline, PreTrainedModel, TokenizersBackend, pipeline
from transformers.pipelines import SUPPORTED_TASKS, TASK_ALIASES

from .loading import METRICS, load_metric


class LocalEvaluator(Evaluator):
    """A mixin for the evaluators of `evaluate`: it makes the pipeline, and finds the metric without network."""

    def prepare_pipeline(
        self,
        model_or_pipeline: str | PreTrainedModel | Pipeline | Callable[..., Any] | None,
        tokenizer: str | TokenizersBackend | None = None,
        feature_extractor: str | FeatureExtractionMixin | None = None,
        device: int | None = None,
    ) -> Pipeline | Callable[..., Any]:
        """Return the pipeline, or make one from a model or from the folder of a checkpoint.

        By default the pipeline runs on the first GPU if there is one.

        Raises:
            ValueError: there is no model, or the pipeline is for another task.
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
            raise ValueError(f"the pipeline is for {task!r}, but the evaluator is for {self.task!r}")
        return made

    def prepare_metric(self, metric: str | evaluate.EvaluationModule | None) -> evaluate.EvaluationModule:
        """Return the metric, or load it by its name: from this package if it has it, otherwise with `evaluate`."""
        name = self.default_metric_name if metric is None else metric
        return load_metric(name) if name in METRICS else super().prepare_metric(name)


def evaluator(task: str) -> Evaluator:
    """Return the evaluator of a task, as ``evaluate.evaluator(task)`` does, for transformers 5 and our metrics.

    The models of this library serve ``"text-classification"``, ``"token-classification"``, ``"text-generation"``, and,
    for checkpoints with an image processor, ``"image-classification"``. A metric is a name in `METRICS` or any
    `evaluate` module. Token classification needs a metric that takes lists of label names.

    Raises:
        ValueError: `evaluate` has no evaluator for the task, or transformers has no pipeline for it. One such task is
            ``"question-answering"``; score answers with ``load_metric("exact_match")``.
    """
    task = TASK_ALIASES.get(task, task)
    tasks = sorted(set(SUPPORTED_EVALUATOR_TASKS) & set(SUPPORTED_TASKS))
    if task not in tasks:
        remedy = "; score answers with load_metric('exact_match')" if task == "question-answering" else ""
        raise ValueError(
            f"evaluate and transformers do not both know the task {task!r}{remedy}; the tasks of both are {tasks}"
        )
    known = SUPPORTED_EVALUATOR_TASKS[task]
    base = known["implementation"]
    return type(base.__name__, (base, LocalEvaluator), {})(task=task, default_metric_name=known["default_metric_name"])
