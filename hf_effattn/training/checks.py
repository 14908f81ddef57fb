"""Refuse training arguments that `Trainer` accepts and then does something else with."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments


@dataclass(frozen=True)
class Scores:
    """What a script measures: the scores that are better when they are higher, and those better when lower."""

    higher: tuple[str, ...]
    lower: tuple[str, ...]


def check_arguments(training: TrainingArguments) -> None:
    """Raise ValueError for arguments that would not do what they say.

    A launcher may have started several processes that would not train together, and without their last batch an
    evaluation leaves rows out of the scores.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if training.world_size != started:
        raise ValueError(
            f"{started} processes were started, but Accelerate found {training.world_size}, so each would train for "
            "itself: pass --use_cpu true on CPUs, and see training_scripts/launch for what starts processes"
        )
    if training.dataloader_drop_last:
        raise ValueError("dataloader_drop_last would drop the last rows of the evaluation as well: leave it out")


def choose_weights_by(training: TrainingArguments, higher: Collection[str], lower: Collection[str]) -> None:
    """Set which end of the metric for the best weights is the good one.

    `TrainingArguments` takes whatever is not called a loss for a score, and so would keep the worst perplexity.

    Args:
        training: is changed in place.
        higher: what the script measures that is better when it is higher.
        lower: what it measures that is better when it is lower.

    Raises:
        ValueError: the metric is none of these, or `greater_is_better` contradicts it.
    """
    if training.metric_for_best_model is None:
        return
    metric = training.metric_for_best_model.removeprefix("eval_")
    if metric not in (*higher, *lower):
        raise ValueError(
            f"metric_for_best_model is {metric!r}; this script measures {', '.join(sorted((*higher, *lower)))}"
        )
    greater, usual = metric in higher, not metric.endswith("loss")
    # What is not given is set to what is usual, and cannot be told from it.
    if training.greater_is_better not in (greater, usual):
        raise ValueError(
            f"greater_is_better={training.greater_is_better} would keep the worst weights by {metric!r}: leave it out"
        )
    training.greater_is_better = greater


def check_weights_are_kept(training: TrainingArguments) -> None:
    """Raise ValueError if the weights that a run leaves may not be the ones that it chose.

    `Trainer` takes multiples of `eval_steps` for `save_steps`. It would tell the score of the best step and load the
    weights of another, or leave the last ones. And to evaluate in half precision it rounds the weights themselves.
    """
    by_steps = training.eval_strategy == training.save_strategy == "steps"
    if training.load_best_model_at_end and by_steps and training.eval_steps != training.save_steps:
        raise ValueError(
            f"with save_steps={training.save_steps:g} and eval_steps={training.eval_steps:g} the best weights may not "
            "be saved, and so could not be loaded: set both to the same, or save_strategy to best"
        )
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(training, name):
            raise ValueError(f"{name} would round the weights that are left: leave it out, or train with {name[:4]}")


def check_trainer(trainer: Any) -> None:
    """Raise ValueError if the trainer would not do what it was asked for.

    Accelerate has FSDP on accelerators alone, and an orthogonality penalty reads the weights of the blocks outside of
    them, where they are in shards. With label smoothing `Trainer` takes a loss of its own, without the penalty.
    """
    if trainer.args.label_smoothing_factor and getattr(trainer.model.config, "orthogonality_penalty", 0):
        raise ValueError("label_smoothing_factor leaves the orthogonality_penalty out of the loss: set one to 0")
    asked = trainer.args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and not trainer.is_fsdp_enabled:
        raise ValueError(
            f"Accelerate shards nothing on {trainer.args.device.type!r} and would train without FSDP: leave it out, "
            "or use accelerators"
        )
    if asked and getattr(trainer.model.config, "orthogonality_penalty", 0):
        raise ValueError("FSDP and an orthogonality_penalty do not go together: set it to 0, or train without FSDP")
