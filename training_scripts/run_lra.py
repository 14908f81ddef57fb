"""Train and score one model on one Long Range Arena task with `transformers.Trainer`.

    python training_scripts/run_lra.py --recipe training_scripts/recipes/quickstart.yaml \
        --model_config simpletron/quickstart --output_dir runs/simpletron

Any argument of `transformers.TrainingArguments` may stand in the recipe or on the command line. The best checkpoint
by validation accuracy is scored once on the test split. The run leaves in its output folder the checkpoints to
resume from, ``model/`` (a self-contained checkpoint with its tokenizer or image processor) and ``results.json``.
"""

import sys
from typing import Any

import numpy as np
from transformers import EarlyStoppingCallback, EvalPrediction, TrainerCallback, TrainingArguments

from hf_effattn.data.collate import IGNORED
from hf_effattn.diagnostics.callback import DiagnosticsCallback
from hf_effattn.metrics import load_metric
from hf_effattn.training.checks import check_weights_are_kept
from hf_effattn.training.lra import LRA_SCORES, LraArguments, Prepared, prepare
from hf_effattn.training.setup import parse_and_seed
from hf_effattn.training.train import train_and_score
from hf_effattn.training.trainer import CheckedTrainer, PairTrainer


#: Validation rows that `--diagnose` measures.
DIAGNOSED_ROWS = 32


def main(command_line: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    lra, training = parse_and_seed(LraArguments, command_line, __doc__, LRA_SCORES, check_choice_of_weights)
    prepared = prepare(lra)
    trainer = build_trainer(prepared, training)
    watchers: list[TrainerCallback] = []
    if lra.patience is not None:
        watchers.append(EarlyStoppingCallback(lra.patience))
    if lra.diagnose:
        rows = prepared.encoded["validation"]
        batch = prepared.batch(rows.select(range(min(DIAGNOSED_ROWS, len(rows)))))
        watchers.append(DiagnosticsCallback(trainer, {name: batch[name] for name in batch if name != "labels"}))
    test = prepared.encoded["test"]
    return train_and_score(trainer, lra, prepared.splits, test, watchers, validation_accuracy).to_dict()


def check_choice_of_weights(lra: LraArguments, training: TrainingArguments) -> None:
    """Raise ValueError if the weights that are left would not be chosen by accuracy."""
    check_weights_are_kept(training)
    if training.load_best_model_at_end and training.metric_for_best_model not in ("accuracy", "eval_accuracy"):
        raise ValueError(
            f"metric_for_best_model is {training.metric_for_best_model!r}: weights are chosen by 'accuracy'"
        )
    # The early-stopping counter belongs to the run's state; restore it on resume.
    training.restore_callback_states_from_checkpoint = lra.patience is not None


def validation_accuracy(trainer: CheckedTrainer) -> dict[str, Any]:
    """The validation accuracy of the weights that are left: that of their evaluation, or measured now."""
    if trainer.args.load_best_model_at_end and trainer.state.best_global_step:
        return {"validation_accuracy": trainer.state.best_metric}
    return {"validation_accuracy": trainer.evaluate()["eval_accuracy"]}


def build_trainer(prepared: Prepared, training: TrainingArguments) -> CheckedTrainer:
    """The trainer with its metric and its training and validation splits."""
    accuracy = load_metric("accuracy")
    # The column of the pictures is named otherwise than the argument that the collator makes of it.
    training.remove_unused_columns = prepared.task.pixels is None

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        # Where every token has a label, only some are scored.
        scored = prediction.label_ids != IGNORED
        predicted = np.argmax(prediction.predictions, axis=-1)
        scores: dict[str, float] = accuracy.compute(
            predictions=predicted[scored], references=prediction.label_ids[scored]
        )
        return scores

    return PairTrainer(
        model=prepared.model,
        args=training,
        data_collator=prepared.collate,
        train_dataset=prepared.encoded["train"],
        eval_dataset=prepared.encoded["validation"],
        processing_class=prepared.processor,
        compute_metrics=compute_metrics,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
