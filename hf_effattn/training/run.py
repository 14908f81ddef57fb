"""What the scripts that train on a user's own data share: where a model starts, how a run goes, what it leaves."""

import dataclasses
import logging
import os
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
from ..hub.export import export_checkpoint
from ..lra.checksums import content_checksum
from ..models.heads import EncoderForCausalLM
from ..tokenization import byte_tokenizer
from .checkpoints import RESULTS, checkpoint_to_resume, sole_run
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


def begin(kind: type[RunArguments], arguments: list[str], description: str | None) -> tuple[Any, TrainingArguments]:
    """The arguments of a script, of class `kind`, and those of the trainer, with logs on and seeds set.

    Raises:
        ValueError: arguments that do not go together.
        FileExistsError: the output folder holds an earlier run that is not to be resumed.
    """
    parser = HfArgumentParser((kind, TrainingArguments), description=description)  # type: ignore[arg-type]
    run, training = parse_recipe(parser, arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    check_processes(training)
    if training.dataloader_drop_last:
        raise ValueError("dataloader_drop_last would drop the last rows of the evaluation as well: leave it out")
    if (checkpoint := checkpoint_to_resume(run, training)) is not None:
        training.resume_from_checkpoint = str(checkpoint)
    training.include_num_input_tokens_seen = "non_padding"
    set_seed(training.seed)
    return run, training


def check_processes(training: TrainingArguments) -> None:
    """Raise ValueError if a launcher started several processes that would not train together."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if training.world_size != started:
        raise ValueError(
            f"{started} processes were started, but Accelerate found {training.world_size}, so each would train for "
            "itself: pass --use_cpu true on CPUs, and see training_scripts/launch for what starts processes"
        )


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


def is_byte_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens of `tokenizer` are bytes, as those of `hf_effattn.byte_tokenizer` are."""
    return tokenizer.get_vocab() == byte_tokenizer(0).get_vocab()


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
        ValueError: sharding or label smoothing that would not be what was asked for.
    """
    check_trainer(trainer)
    model: Any = trainer.model
    kind = type(model)
    throughput = ThroughputCallback()
    trainer.add_callback(throughput)
    with sole_run(run, trainer.args):
        trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
        scores = {"validation": trainer.evaluate()}
        if test is not None:
            scores["test"] = trainer.evaluate(test, metric_key_prefix="test")
        results = collect_results(run, trainer, throughput, splits) | scores
        leave(trainer, kind, results)
    logger.info("%s, results in %s", scores.get("test", scores["validation"]), trainer.args.output_dir)
    trainer.end()
    return results


def leave(trainer: Any, kind: type[PreTrainedModel], results: dict[str, Any]) -> None:
    """Write ``model/``, of class `kind`, and ``results.json`` to the output folder; every process has to call it."""
    model, output_dir = whole_model(trainer, kind), Path(str(trainer.args.output_dir))
    if trainer.is_world_process_zero():
        export_checkpoint(model, trainer.processing_class, output_dir / "model")
        write_json(output_dir / RESULTS, results)


def check_trainer(trainer: Any) -> None:
    """Raise ValueError if the trainer would not do what it was asked for.

    Accelerate has FSDP on accelerators alone, and an orthogonality penalty reads the weights of the blocks outside of
    them, where they are in shards. With label smoothing `Trainer` takes a loss of its own, without the penalty, and
    shifts the labels of transformers' own causal models alone: others would learn to repeat their input.
    """
    if trainer.args.label_smoothing_factor:
        if isinstance(trainer.model, EncoderForCausalLM):
            raise ValueError("label_smoothing_factor takes labels that are not shifted for these models: leave it out")
        if getattr(trainer.model.config, "orthogonality_penalty", 0):
            raise ValueError("label_smoothing_factor leaves the orthogonality_penalty out of the loss: set one to 0")
    asked = trainer.args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and not trainer.is_fsdp_enabled:
        raise ValueError(
            f"Accelerate shards nothing on {trainer.args.device.type!r} and would train without FSDP: leave it out, "
            "or use accelerators"
        )
    if asked and getattr(trainer.model.config, "orthogonality_penalty", 0):
        raise ValueError("FSDP and an orthogonality_penalty do not go together: set it to 0, or train without FSDP")


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
    arguments: Any, trainer: Trainer, throughput: ThroughputCallback, splits: DatasetDict
) -> dict[str, Any]:
    """What a run gave apart from its scores, and everything that is needed to repeat it.

    Args:
        arguments: those of the script, a dataclass.
        trainer: after training.
        throughput: a callback that it had.
        splits: the rows as they were loaded.
    """
    return {
        **run_facts(arguments, trainer.args.to_sanitized_dict(), trainer.model, splits),
        "processes": trainer.args.world_size,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "tokens_per_second": throughput.tokens_per_second,
        "log": trainer.state.log_history,
    }


def run_facts(arguments: Any, training: dict[str, Any], model: Any, splits: DatasetDict) -> dict[str, Any]:
    """What was trained on what, how and where, whatever loop did it; `training` are the arguments of that loop."""
    return {
        "arguments": dataclasses.asdict(arguments),
        "training_arguments": training,
        "model_config": model.config.to_dict(),
        # Models of transformers report nothing.
        "backends": model.effattn_report() if hasattr(model, "effattn_report") else None,
        "parameters": model.num_parameters(),
        "data": {name: {"rows": len(split), "sha256": content_checksum(split)} for name, split in splits.items()},
        "environment": environment(),
        "code": code_checksum(),
        "peak_memory_bytes": peak_memory_bytes(),
    }
