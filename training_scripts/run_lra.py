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
import transformers
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

import hf_effattn
from hf_effattn.files import write_json
from hf_effattn.lra import LraTask, get_task
from hf_effattn.lra.checksums import content_checksum
from hf_effattn.lra.recall import IGNORED
from hf_effattn.lra.task import tokenize
from hf_effattn.metrics import load_metric
from hf_effattn.training.checkpoints import last_complete_checkpoint
from hf_effattn.training.measure import ThroughputCallback, environment, peak_memory_bytes
from hf_effattn.training.recipes import parse_recipe


logger = logging.getLogger("run_lra")


@dataclasses.dataclass
class LraArguments:
    """What to train on what."""

    task: str = dataclasses.field(default="text", metadata={"help": "task of the arena"})
    source: str | None = dataclasses.field(default=None, metadata={"help": "where the data comes from; see the task"})
    model_config: str | None = dataclasses.field(default=None, metadata={"help": "config file of a new model"})
    model_name_or_path: str | None = dataclasses.field(default=None, metadata={"help": "checkpoint to start from"})
    max_length: int = dataclasses.field(default=1024, metadata={"help": "longest input in tokens, [CLS] included"})
    resume: bool = dataclasses.field(default=False, metadata={"help": "go on from the last whole checkpoint"})

    def __post_init__(self) -> None:
        if (self.model_config is None) == (self.model_name_or_path is None):
            raise ValueError("give exactly one of --model_config and --model_name_or_path")


def main(arguments: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    parser = HfArgumentParser((LraArguments, TrainingArguments), description=__doc__)  # type: ignore[arg-type]
    lra, training = parse_recipe(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    task = get_task(lra.task)
    checkpoint = checkpoint_to_resume(Path(training.output_dir), lra.resume)
    lra.source = lra.source or task.sources[0]
    set_seed(training.seed)
    model = build_model(lra, task)
    splits = task.load(lra.source)
    trainer, throughput, test = build_trainer(lra, task, training, model, splits)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    scores = trainer.evaluate(test, metric_key_prefix="test")
    results = collect_results(lra, trainer, throughput, splits, scores)
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


def build_model(lra: LraArguments, task: LraTask) -> PreTrainedModel:
    """A classifier for the task, new from a config file or from a checkpoint."""
    labels = dict(enumerate(task.labels))
    label_fields = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    auto_class = getattr(transformers, task.auto_class)
    if lra.model_name_or_path is not None:
        model = auto_class.from_pretrained(lra.model_name_or_path, **label_fields)
    else:
        config = AutoConfig.from_pretrained(str(lra.model_config), **label_fields)
        check_input(task, config)
        model = auto_class.from_config(config)
    check_input(task, model.config)
    # Models of other libraries have no such limit but their positions.
    limit = getattr(model.config, "max_input_length", model.config.max_position_embeddings)
    if task.tokenizer is not None and limit is not None and lra.max_length > limit:
        raise ValueError(f"max_length ({lra.max_length}) exceeds the model's max_position_embeddings ({limit})")
    return model


def check_input(task: LraTask, config: PreTrainedConfig) -> None:
    """Raise ValueError if a model with this config reads something else than the task has."""
    pair_features, channels = (getattr(config, name, None) for name in ("pair_features", "num_channels"))
    if task.pairs != (pair_features is not None):
        kind, remedy = ("pairs", "'concat'") if task.pairs else ("single sequences", "null")
        raise ValueError(
            f"task {task.name!r} has {kind}, but the model has pair_features={pair_features!r}: set it to {remedy}"
        )
    if (task.pixels is not None) != (channels is not None):
        kind, remedy = ("grey pictures", "1") if task.pixels is not None else ("tokens", "null")
        raise ValueError(
            f"task {task.name!r} has {kind}, but the model has num_channels={channels!r}: set it to {remedy}"
        )


def build_trainer(
    lra: LraArguments, task: LraTask, training: TrainingArguments, model: PreTrainedModel, splits: DatasetDict
) -> tuple[Trainer, ThroughputCallback, Dataset]:
    """The trainer with its metric and its training and validation splits, its throughput, and the test split."""
    tokenizer = None if task.tokenizer is None else task.tokenizer(lra.max_length)
    encoded = tokenize(splits, tokenizer, lra.max_length)
    accuracy = load_metric("accuracy")
    throughput = ThroughputCallback()
    training.include_num_input_tokens_seen = "non_padding"
    # A column of pictures has not the name of the argument that the collator makes of it.
    training.remove_unused_columns = task.pixels is None

    def compute_metrics(prediction: Any) -> dict[str, float]:
        # Of a sequence with a label per token, only some tokens are asked for.
        asked = prediction.label_ids != IGNORED
        predicted = np.argmax(prediction.predictions, axis=-1)
        return accuracy.compute(predictions=predicted[asked], references=prediction.label_ids[asked])

    trainer = Trainer(
        model=model,
        args=training,
        data_collator=task.collator(tokenizer),
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        callbacks=[throughput],
    )
    return trainer, throughput, encoded["test"]


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
        "backends": model.effattn_report(),
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
