"""How every run with `Trainer` goes: train, score the best weights once, leave model and results."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from ..data.checksums import content_checksum
from .arguments import RunArguments
from .checkpoints import exclusive_output_dir
from .checks import check_trainer
from .export_run import export_trained
from .measure import ThroughputCallback, code_checksum, environment, peak_memory_bytes
from .results import ResolvedSetup, RunResults, SplitData
from .trainer import CheckedTrainer


logger = logging.getLogger(__name__)


def validation_scores(trainer: CheckedTrainer) -> dict[str, Any]:
    """The entry ``validation`` of the results: the scores of the weights that are left."""
    return {"validation": trainer.evaluate()}


def train_and_score(
    trainer: CheckedTrainer,
    run: RunArguments,
    splits: DatasetDict,
    test: Dataset | None,
    watchers: Sequence[TrainerCallback] = (),
    validate: Callable[[CheckedTrainer], dict[str, Any]] = validation_scores,
) -> RunResults:
    """Train, score the best weights, and leave ``model/`` and ``results.json`` in the output folder.

    Args:
        trainer: with its training and validation rows.
        run: the arguments of the script.
        splits: the rows as they were loaded.
        test: encoded rows to score once at the end, if any.
        watchers: callbacks that follow the validation split, and are removed before the last scores.
        validate: gives the results' entries about the validation split.

    Raises:
        FileExistsError: another run writes to the output folder.
        OSError: the disk is full, or cannot be written.
        RuntimeError: the weights are not the best ones, which were to be loaded.
        ValueError: sharding or label smoothing would not do what it says; or the best weights are missing or have
            changed.
    """
    check_trainer(trainer)
    # `Trainer` calls it a module; where its weights are sharded, another class takes its place.
    model: Any = trainer.model
    training, model_class = trainer.args, type(model)
    checkpoint = training.resume_from_checkpoint
    throughput = ThroughputCallback()
    for callback in (throughput, *watchers):
        trainer.add_callback(callback)
    setup = resolved_setup(training, model, splits)
    with exclusive_output_dir(run, training, setup, None if checkpoint is None else Path(checkpoint)):
        trainer.train(resume_from_checkpoint=checkpoint)
        # A resumed run has put others of their classes in their places.
        for watcher in watchers:
            trainer.remove_callback(type(watcher))
        scores = validate(trainer)
        if test is not None:
            scores["test"] = trainer.evaluate(test, metric_key_prefix="test")
        results = run_results(
            run,
            training.to_sanitized_dict(),
            trainer.model,
            setup,
            steps=trainer.state.global_step,
            best_step=trainer.state.best_global_step,
            tokens_per_second=throughput.tokens_per_second,
            log=trainer.state.log_history,
            **scores,
        )
        results = export_trained(trainer, model_class, results)
    logger.info("%s, results in %s", results.test or results.validation, training.output_dir)
    trainer.accelerator.end_training()
    return results


def resolved_setup(training: TrainingArguments, model: PreTrainedModel, splits: DatasetDict) -> ResolvedSetup:
    """The resolved setup of a run: model config, data checksums, number of processes, precision.

    Args:
        training: the arguments of the trainer.
        model: before training.
        splits: the rows as they were loaded.
    """
    return ResolvedSetup(
        model_config=model.config.to_dict(),
        data={name: SplitData(rows=len(split), sha256=content_checksum(split)) for name, split in splits.items()},
        processes=training.world_size,
        mixed_precision=training.mixed_precision,
    )


def run_results(
    run: RunArguments, training: dict[str, Any], model: Any, setup: ResolvedSetup, **measured: Any
) -> RunResults:
    """The results of a run: what was trained on what, how and where, with what was `measured`.

    Args:
        run: the arguments of the script.
        training: those of the trainer, or those of them that a loop reads.
        model: after training, which may have aligned its config with the tokenizer.
        setup: see `resolved_setup`.
        **measured: the other fields of `RunResults`.
    """
    return RunResults(
        arguments=dataclasses.asdict(run),
        training_arguments=training,
        model_config=model.config.to_dict(),
        data=setup.data,
        processes=setup.processes,
        mixed_precision=setup.mixed_precision,
        # Models of transformers report nothing.
        backends=model.effattn_report() if hasattr(model, "effattn_report") else None,
        parameters=model.num_parameters(),
        environment=environment(),
        code=code_checksum(),
        peak_memory_bytes=peak_memory_bytes(),
        **measured,
    )
