"""Train and score one model on one Long Range Arena task with `transformers.Trainer`.

    python training_scripts/run_lra.py --recipe training_scripts/recipes/quickstart.yaml \
        --model_config modeling_configs/simpletron-quickstart.json --output_dir runs/simpletron

Any argument of `transformers.TrainingArguments` may stand in the recipe or on the command line. The best checkpoint
by validation accuracy is scored once on the test split. The run leaves in its output folder the checkpoints to
resume from, ``model/`` (a self-contained checkpoint with its tokenizer) and ``results.json``.
"""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import EarlyStoppingCallback, HfArgumentParser, Trainer, TrainingArguments, set_seed

import hf_effattn
from hf_effattn.diagnostics.callback import DiagnosticsCallback
from hf_effattn.files import write_json
from hf_effattn.lra.checksums import content_checksum
from hf_effattn.lra.collate import Collator
from hf_effattn.lra.recall import IGNORED
from hf_effattn.metrics import load_metric
from hf_effattn.training.checkpoints import last_complete_checkpoint
from hf_effattn.training.lra import LraArguments, Prepared, prepare
from hf_effattn.training.measure import ThroughputCallback, environment, peak_memory_bytes
from hf_effattn.training.recipes import parse_recipe


logger = logging.getLogger("run_lra")

#: Validation rows that `--diagnose` measures.
DIAGNOSED_ROWS = 32


def main(arguments: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    parser = HfArgumentParser((LraArguments, TrainingArguments), description=__doc__)  # type: ignore[arg-type]
    lra, training = parse_recipe(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    checkpoint = checkpoint_to_resume(Path(training.output_dir), lra.resume)
    set_seed(training.seed)
    prepared = prepare(lra)
    trainer, throughput = build_trainer(prepared, training)
    if lra.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(lra.patience))
    if lra.diagnose:
        rows = prepared.encoded["validation"]
        rows = rows.select(range(min(DIAGNOSED_ROWS, len(rows))))
        trainer.add_callback(DiagnosticsCallback(trainer, inputs_of(prepared.collate, rows)))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    scores = trainer.evaluate(prepared.encoded["test"], metric_key_prefix="test")
    results = collect_results(lra, trainer, throughput, prepared.splits, scores)
    if trainer.is_world_process_zero():
        hf_effattn.export_checkpoint(trainer.model, trainer.processing_class, Path(training.output_dir) / "model")
        write_json(Path(training.output_dir) / "results.json", results)
    logger.info("test accuracy %.4f, results in %s", scores["test_accuracy"], training.output_dir)
    return results


def checkpoint_to_resume(output_dir: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from, or None for a run from the start.

    Raises:
        FileExistsError: the folder holds an earlier run that `resume` does not ask to continue.
    """
    if resume:
        checkpoint = last_complete_checkpoint(output_dir)
        logger.info(
            "%s", f"resuming from {checkpoint}" if checkpoint else f"{output_dir} has no whole checkpoint: starting"
        )
        return checkpoint
    if output_dir.exists() and any(output_dir.iterdir()):
        raise FileExistsError(
            f"{output_dir} holds an earlier run: pass --resume true to continue it, or another folder"
        )
    return None


def inputs_of(collate: Collator, rows: Dataset) -> dict[str, torch.Tensor]:
    """What a model reads of a batch of `rows`."""
    batch = collate(list(rows.with_format("numpy") if "image" in rows.column_names else rows))
    return {name: values for name, values in batch.items() if name != "labels"}


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

    trainer = Trainer(
        model=prepared.model,
        args=training,
        data_collator=prepared.collate,
        train_dataset=prepared.encoded["train"],
        eval_dataset=prepared.encoded["validation"],
        processing_class=prepared.tokenizer,
        compute_metrics=compute_metrics,
        callbacks=[throughput],
    )
    return trainer, throughput


def collect_results(
    lra: LraArguments,
    trainer: Trainer,
    throughput: ThroughputCallback,
    splits: DatasetDict,
    scores: dict[str, float],
) -> dict[str, Any]:
    """What the run gave, and everything that is needed to repeat it."""
    model: Any = trainer.model
    return {
        "arguments": dataclasses.asdict(lra),
        "training_arguments": trainer.args.to_sanitized_dict(),
        "model_config": model.config.to_dict(),
        # Models of transformers report nothing.
        "backends": model.effattn_report() if hasattr(model, "effattn_report") else None,
        "parameters": model.num_parameters(),
        "data": {name: {"rows": len(split), "sha256": content_checksum(split)} for name, split in splits.items()},
        "environment": environment(),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "validation_accuracy": trainer.state.best_metric,
        "test": scores,
        "tokens_per_second": throughput.tokens_per_second,
        "peak_memory_bytes": peak_memory_bytes(),
        "log": trainer.state.log_history,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
