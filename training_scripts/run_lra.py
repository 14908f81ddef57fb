"""Train and score one model on one Long Range Arena task with `transformers.Trainer`.

    python training_scripts/run_lra.py --recipe training_scripts/recipes/quickstart.yaml \
        --model_config modeling_configs/simpletron-quickstart.json --output_dir runs/simpletron

Any argument of `transformers.TrainingArguments` may stand in the recipe or on the command line. The best checkpoint
by validation accuracy is scored once on the test split. The run leaves in its output folder the checkpoints to
resume from, ``model/`` (a self-contained checkpoint with its tokenizer or image processor) and ``results.json``.
"""

import logging
import sys
from typing import Any

import numpy as np
from transformers import (
    EarlyStoppingCallback,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_effattn.diagnostics.callback import DiagnosticsCallback
from hf_effattn.lra.collate import IGNORED
from hf_effattn.metrics import load_metric
from hf_effattn.training.checkpoints import checkpoint_to_resume, sole_run
from hf_effattn.training.checks import check_arguments, check_trainer, check_weights_are_kept, choose_weights_by
from hf_effattn.training.lra import LraArguments, Prepared, prepare
from hf_effattn.training.measure import PairTrainer, ThroughputCallback
from hf_effattn.training.recipes import parse_recipe
from hf_effattn.training.run import collect_results, leave, made_of


logger = logging.getLogger("run_lra")

#: Validation rows that `--diagnose` measures.
DIAGNOSED_ROWS = 32


def main(arguments: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    parser = HfArgumentParser((LraArguments, TrainingArguments), description=__doc__)  # type: ignore[arg-type]
    lra, training = parse_recipe(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    check_arguments(training)
    check_weights_are_kept(training)
    choose_weights_by(training, higher=("accuracy",), lower=("loss",))
    if training.load_best_model_at_end and training.metric_for_best_model not in ("accuracy", "eval_accuracy"):
        raise ValueError(
            f"metric_for_best_model is {training.metric_for_best_model!r}: weights are chosen by 'accuracy'"
        )
    # How long it has got no better is a part of the run.
    training.restore_callback_states_from_checkpoint = lra.patience is not None
    checkpoint = checkpoint_to_resume(lra, training)
    set_seed(training.seed)
    prepared = prepare(lra)
    trainer, throughput = build_trainer(prepared, training)
    watchers: list[TrainerCallback] = []
    if lra.patience is not None:
        watchers.append(EarlyStoppingCallback(lra.patience))
    if lra.diagnose:
        rows = prepared.encoded["validation"]
        rows = rows.select(range(min(DIAGNOSED_ROWS, len(rows))))
        batch = prepared.batch(rows)
        watchers.append(DiagnosticsCallback(trainer, {name: batch[name] for name in batch if name != "labels"}))
    for watcher in watchers:
        trainer.add_callback(watcher)
    check_trainer(trainer)
    made = made_of(training, prepared.model, prepared.splits)
    with sole_run(lra, training, made, checkpoint):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        # They follow the validation split; the test split is scored once, with the best weights. A run that goes on
        # has put others of their kinds in their places.
        for watcher in watchers:
            trainer.remove_callback(type(watcher))
        chosen = training.load_best_model_at_end and trainer.state.best_global_step
        best = trainer.state.best_metric if chosen else trainer.evaluate()["eval_accuracy"]
        scores = trainer.evaluate(prepared.encoded["test"], metric_key_prefix="test")
        results = collect_results(lra, trainer, throughput, made)
        results |= {"validation_accuracy": best, "test": scores}
        leave(trainer, type(prepared.model), results)
    logger.info("test accuracy %.4f, results in %s", scores["test_accuracy"], training.output_dir)
    trainer.accelerator.end_training()
    return results


def build_trainer(prepared: Prepared, training: TrainingArguments) -> tuple[Trainer, ThroughputCallback]:
    """The trainer with its metric and its training and validation splits, and its throughput."""
    accuracy = load_metric("accuracy")
    throughput = ThroughputCallback()
    training.include_num_input_tokens_seen = "non_padding"
    # A column of pictures has not the name of the argument that the collator makes of it.
    training.remove_unused_columns = prepared.task.pixels is None

    def compute_metrics(prediction: Any) -> dict[str, float]:
        # Of a sequence with a label per token, only some tokens are asked for.
        asked = prediction.label_ids != IGNORED
        predicted = np.argmax(prediction.predictions, axis=-1)
        return accuracy.compute(predictions=predicted[asked], references=prediction.label_ids[asked])

    trainer = PairTrainer(
        model=prepared.model,
        args=training,
        data_collator=prepared.collate,
        train_dataset=prepared.encoded["train"],
        eval_dataset=prepared.encoded["validation"],
        processing_class=prepared.processor,
        compute_metrics=compute_metrics,
        callbacks=[throughput],
    )
    return trainer, throughput


if __name__ == "__main__":
    main(sys.argv[1:])
