"""Checks of training arguments that `Trainer` accepts but does not follow."""

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

    The processes of a launcher may not find one another, and then each trains for itself. `dataloader_drop_last` also
    drops rows of the evaluation, which then are missing from the scores.
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
    """Set `greater_is_better` for the metric that chooses the best weights.

    `TrainingArguments` sets it to true for every metric that is not called a loss, and so would keep the weights with
    the worst perplexity.

    Args:
        training: is changed in place.
        higher: scores of the script that are better when they are higher.
        lower: scores of the script that are better when they are lower.

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
    # A value that is not given has been set to the usual one, and cannot be told from it.
    if training.greater_is_better not in (greater, usual):
        raise ValueError(
            f"greater_is_better={training.greater_is_better} would keep the worst weights by {metric!r}: leave it out"
        )
    training.greater_is_better = greater


def check_weights_are_kept(training: TrainingArguments) -> None:
    """Raise ValueError if the exported weights might not be those of the best evaluation.

    `Trainer` allows any multiple of `eval_steps` for `save_steps`. It then reports the score of the best step, but
    loads the weights of another step, or keeps the last ones. Evaluation in half precision rounds the weights
    themselves.
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
    """Raise ValueError if the trainer would ignore sharding or a penalty.

    Accelerate shards (FSDP) on accelerators only. An orthogonality penalty reads the weights of the blocks from
    outside, where they are sharded. With label smoothing `Trainer` uses its own loss, without the penalty.
    """
    if trainer.args.label_smoothing_factor and getattr(trainer.model.config, "orthogonality_penalty", 0):
        raise ValueError("label_smoothing_factor leaves the orthogonality_penalty out of the loss: set one to 0")
    sharding = trainer.args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if sharding and not trainer.is_fsdp_enabled:
        raise ValueError(
            f"Accelerate shards nothing on {trainer.args.device.type!r} and would train without FSDP: leave it out, "
            "or use accelerators"
        )
    if sharding and getattr(trainer.model.config, "orthogonality_penalty", 0):
        raise ValueError("FSDP and an orthogonality_penalty do not go together: set it to 0, or train without FSDP")
