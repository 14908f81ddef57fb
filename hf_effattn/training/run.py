"""What the scripts that train on a user's own data share: where a model starts, how a run goes, what it leaves."""

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..files import write_json
from ..hub.export import export_checkpoint, weight_checksums
from ..lra.checksums import content_checksum
from ..tokenization import byte_tokenizer
from .checkpoints import RESULTS, checkpoint_to_resume, sole_run
from .checks import check_arguments, check_trainer, check_weights_are_kept, choose_weights_by
from .measure import ThroughputCallback, code_checksum, environment, peak_memory_bytes
from .model_zoo import check_length
from .recipes import parse_recipe
from .user_data import DataArguments


logger = logging.getLogger(__name__)

#: Ids of special tokens that a new model takes over from its tokenizer.
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


@dataclasses.dataclass
class RunArguments(DataArguments):
    """What to train on what."""

    model_config: str | None = dataclasses.field(default=None, metadata={"help": "config file of a new model"})
    model_name_or_path: str | None = dataclasses.field(default=None, metadata={"help": "checkpoint to start from"})
    tokenizer: str | None = dataclasses.field(
        default=None, metadata={"help": "folder of a tokenizer; else the checkpoint's, or bytes for a new model"}
    )
    max_length: int = dataclasses.field(
        default=1024, metadata={"help": "longest input in tokens, special ones included"}
    )
    resume: bool = dataclasses.field(default=False, metadata={"help": "go on from the last whole checkpoint"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.model_config is None) == (self.model_name_or_path is None):
            raise ValueError("give exactly one of --model_config and --model_name_or_path")


def begin(
    kind: type[RunArguments],
    arguments: list[str],
    description: str | None,
    higher: Collection[str],
    lower: Collection[str],
) -> tuple[Any, TrainingArguments]:
    """The arguments of a script, of class `kind`, and those of the trainer, with logs on and seeds set.

    Args:
        kind: the class of the script's own arguments.
        arguments: the command line.
        description: what ``--help`` says.
        higher: scores of the script that are better when they are higher.
        lower: scores of the script that are better when they are lower.

    Raises:
        ValueError: arguments that do not go together.
        FileExistsError: the output folder holds an earlier run that is not to be resumed.
    """
    parser = HfArgumentParser((kind, TrainingArguments), description=description)  # type: ignore[arg-type]
    run, training = parse_recipe(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    check_arguments(training)
    check_weights_are_kept(training)
    choose_weights_by(training, higher, lower)
    if (checkpoint := checkpoint_to_resume(run, training)) is not None:
        training.resume_from_checkpoint = str(checkpoint)
    training.include_num_input_tokens_seen = "non_padding"
    set_seed(training.seed)
    return run, training


def load_tokenizer(run: RunArguments) -> PreTrainedTokenizerBase:
    """The tokenizer that is asked for, or the checkpoint's, or for a new model that of bytes.

    Raises:
        ValueError: there is none, or it has no token to pad with.
    """
    source = run.tokenizer or run.model_name_or_path
    if source is None:
        return byte_tokenizer(run.max_length)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} has no tokenizer: name one with --tokenizer ({error})") from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {source} has no padding token: set its pad_token and save it again")
    return tokenizer


def start_config(run: RunArguments, tokenizer: PreTrainedTokenizerBase, **fields: Any) -> PreTrainedConfig:
    """The config of the model, new or of a checkpoint, with `fields` set and, if new, its tokenizer's special ids.

    Raises:
        FileNotFoundError: there is no such config file.
        ValueError: the model has fewer ids than the tokenizer, or fewer positions than `run.max_length`.
    """
    if run.model_config is not None:
        if not Path(run.model_config).is_file():
            raise FileNotFoundError(f"there is no config file {run.model_config}")
        fields |= {name: getattr(tokenizer, name) for name in SPECIAL_IDS}
    config = AutoConfig.from_pretrained(str(run.model_config or run.model_name_or_path), **fields)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model vocab_size={config.vocab_size}: set vocab_size "
            "in the config of a new model, or take the checkpoint's own tokenizer"
        )
    check_length(config, run.max_length)
    return config


def start_model(auto_class: str, run: RunArguments, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of an Auto class, new or from a checkpoint."""
    auto = getattr(transformers, auto_class)
    if run.model_name_or_path is not None:
        return auto.from_pretrained(run.model_name_or_path, config=config)
    return auto.from_config(config)


def train_and_score(trainer: Trainer, run: RunArguments, splits: DatasetDict, test: Dataset | None) -> dict[str, Any]:
    """Train, score the best weights, and leave ``model/`` and ``results.json`` in the output folder.

    Args:
        trainer: with its training and validation rows.
        run: the arguments of the script.
        splits: the rows as they were loaded.
        test: encoded rows to score once at the end, if any.

    Returns:
        The content of ``results.json``.

    Raises:
        FileExistsError: another run writes to the output folder.
        OSError: the disk is full, or cannot be written.
        RuntimeError: the weights are not the best ones, which were to be loaded.
        ValueError: sharding or label smoothing that would not be what was asked for; or the best weights are missing
            or have changed.
    """
    check_trainer(trainer)
    model: Any = trainer.model
    kind, checkpoint = type(model), trainer.args.resume_from_checkpoint
    throughput = ThroughputCallback()
    trainer.add_callback(throughput)
    made = made_of(trainer.args, model, splits)
    with sole_run(run, trainer.args, made, None if checkpoint is None else Path(checkpoint)):
        trainer.train(resume_from_checkpoint=checkpoint)
        scores = {"validation": trainer.evaluate()}
        if test is not None:
            scores["test"] = trainer.evaluate(test, metric_key_prefix="test")
        results = collect_results(run, trainer, throughput, made) | scores
        leave(trainer, kind, results)
    logger.info("%s, results in %s", scores.get("test", scores["validation"]), trainer.args.output_dir)
    trainer.accelerator.end_training()
    return results


def leave(trainer: Any, kind: type[PreTrainedModel], results: dict[str, Any]) -> None:
    """Write ``model/``, of class `kind`, and ``results.json`` to the output folder; every process has to call it.

    Raises:
        OSError: the disk is full, or cannot be written.
        RuntimeError: the weights are not the best ones, which were to be loaded.
    """
    model = whole_model(trainer, kind)
    if trainer.is_world_process_zero():
        # Weights in shards are put together, in another file than they were saved in.
        best = None if trainer.is_fsdp_enabled else chosen_weights(trainer)
        store(model, trainer.processing_class, Path(str(trainer.args.output_dir)), results, best)


def chosen_weights(trainer: Any) -> dict[str, str] | None:
    """The checksums of the best weights, if the trainer was to load them and there are such."""
    if not trainer.args.load_best_model_at_end:
        return None
    if trainer.best_weights is None:
        logger.warning("no evaluation gave a score to choose weights by: those that are left are the last ones")
    return trainer.best_weights


def store(
    model: PreTrainedModel,
    processor: Any,
    output_dir: Path,
    results: dict[str, Any],
    best: dict[str, str] | None = None,
) -> None:
    """Write ``model/`` to the output folder of a run, and then ``results.json``, which knows these weights again.

    The tokenizer of a decoder pads on the left there, since `generate` writes behind the end of every row.

    Args:
        model: with the weights that are left.
        processor: its tokenizer or image processor, if any.
        output_dir: the folder of the run.
        results: gets the checksums of the weights.
        best: those of the best weights, which these have to be.

    Raises:
        OSError: the disk is full, or cannot be written.
        RuntimeError: the weights are not the best ones.
    """
    if processor is not None and model.can_generate():
        processor.padding_side = "left"
    folder = export_checkpoint(model, processor, output_dir / "model")
    results["weights"] = weight_checksums(folder)
    if best is not None and results["weights"] != best:
        raise RuntimeError(f"the weights in {folder} are {results['weights']}, and the best ones were {best}")
    write_json(output_dir / RESULTS, results)


def whole_model(trainer: Any, kind: type[PreTrainedModel]) -> PreTrainedModel:
    """The model of the trainer, of class `kind`, put together in the main process if its weights are in shards.

    Every process has to call it.
    """
    if not trainer.is_fsdp_enabled:
        return trainer.accelerator.unwrap_model(trainer.model)
    state = trainer.accelerator.get_state_dict(trainer.model)
    model = kind(trainer.model.config)
    if trainer.is_world_process_zero():
        model.load_state_dict(state)
    return model


def collect_results(
    arguments: Any, trainer: Trainer, throughput: ThroughputCallback, made: dict[str, Any]
) -> dict[str, Any]:
    """What a run gave apart from its scores, and everything that is needed to repeat it.

    Args:
        arguments: those of the script, a dataclass.
        trainer: after training.
        throughput: a callback that it had.
        made: see `made_of`.
    """
    return {
        **run_facts(arguments, trainer.args.to_sanitized_dict(), trainer.model, made),
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "tokens_per_second": throughput.tokens_per_second,
        "log": trainer.state.log_history,
    }


def made_of(training: TrainingArguments, model: PreTrainedModel, splits: DatasetDict) -> dict[str, Any]:
    """What the arguments of a run came to, where files and launchers have a say; `splits` as they were loaded."""
    return {
        "model_config": model.config.to_dict(),
        "data": {name: {"rows": len(split), "sha256": content_checksum(split)} for name, split in splits.items()},
        "processes": training.world_size,
        "mixed_precision": training.mixed_precision,
    }


def run_facts(arguments: Any, training: dict[str, Any], model: Any, made: dict[str, Any]) -> dict[str, Any]:
    """What was trained on what, how and where, whatever loop did it; `training` are the arguments of that loop."""
    return {
        "arguments": dataclasses.asdict(arguments),
        "training_arguments": training,
        **made,
        # Training may have aligned it with the tokenizer.
        "model_config": model.config.to_dict(),
        # Models of transformers report nothing.
        "backends": model.effattn_report() if hasattr(model, "effattn_report") else None,
        "parameters": model.num_parameters(),
        "environment": environment(),
        "code": code_checksum(),
        "peak_memory_bytes": peak_memory_bytes(),
    }
