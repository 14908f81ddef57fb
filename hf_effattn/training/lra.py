"""Runs on a task of Long Range Arena: their arguments, their model and their data."""

import dataclasses
import json
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.collate import Collator
from ..data.tokenize import tokenize
from ..lra import LraTask, get_task
from .arguments import RunArguments, argument
from .checks import Scores
from .matched_configs import Size, check_length, is_ours, matched_config
from .new_configs import number_of_classes
from .start import start_config, start_model


#: The keys of `LraArguments.model_size`, as in our configs, and the fields of `Size` that they are.
SIZES = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
}


#: Where texts are cut.
DEFAULT_LENGTH = 1024

#: What the scripts that train on a task measure.
LRA_SCORES = Scores(higher=("accuracy",), lower=("loss",))


@dataclasses.dataclass
class LraArguments(RunArguments):
    """What to train on which task."""

    task: str = argument("task of the arena", "text")
    source: str | None = argument("where the data comes from; see the task")
    model_type: str | None = argument("type of a new model, ours or one of transformers; needs model_size")
    model_size: dict[str, Any] | str | None = dataclasses.field(
        default=None, metadata={"help": f"size of a new model_type, a mapping with {', '.join(SIZES)}"}
    )
    model_options: dict[str, Any] | str | None = dataclasses.field(
        default=None, metadata={"help": "further fields of the config of a new model_type, a mapping"}
    )
    max_length: int = argument(
        "longest text in tokens, [CLS] included (1,024); pictures have a length of their own", 0
    )
    validation_rows: int | None = argument("score so many rows of the validation split, its first ones")
    test_rows: int | None = argument("score so many rows of the test split, its first ones")
    patience: int | None = argument("stop after so many evaluations without a better validation accuracy")
    diagnose: bool = argument("log hf_effattn.diagnose of some validation rows after every evaluation", False)

    def starts(self) -> dict[str, str | None]:
        """The arguments that say where a model starts, by name."""
        return super().starts() | {"model_type": self.model_type}

    def __post_init__(self) -> None:
        super().__post_init__()
        task = get_task(self.task)
        self.source = self.source or task.sources[0]
        self.max_length = self.max_length or task.length or DEFAULT_LENGTH
        if task.length not in (None, self.max_length):
            raise ValueError(f"every sequence of task {self.task!r} has {task.length} tokens: leave --max_length out")
        self.model_size, self.model_options = _mapping(self.model_size), _mapping(self.model_options)
        if self.model_type is None and (self.model_size or self.model_options):
            raise ValueError("--model_size and --model_options are for a new --model_type")
        if self.model_type is not None and self.model_size.keys() != SIZES.keys():
            raise ValueError(f"--model_type needs a --model_size of {sorted(SIZES)}, got {sorted(self.model_size)}")


def _mapping(value: Any) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"a mapping is needed, such as '{{\"hidden_size\": 64}}', got {value!r}")
    return found or {}


@dataclasses.dataclass
class Prepared:
    """The model and the data of a run.

    Attributes:
        task: the task, in the form that the model reads.
        model: a classifier for it.
        processor: the tokenizer of its texts, or the image processor of its pictures, if there are any.
        collate: makes batches of rows.
        splits: the rows as they were loaded, without those that are not used.
        encoded: the rows that batches are made of.
    """

    task: LraTask
    model: PreTrainedModel
    processor: PreTrainedTokenizerBase | BaseImageProcessor | None
    collate: Collator
    splits: DatasetDict
    encoded: DatasetDict

    def batch(self, rows: Dataset) -> dict[str, torch.Tensor]:
        """A batch of all of `rows`, which are encoded."""
        return self.collate(list(rows.with_format("numpy") if "image" in rows.column_names else rows))


def prepare(lra: LraArguments) -> Prepared:
    """Build the model, then load and encode the data.

    Raises:
        ValueError: arguments that do not go together.
    """
    task = get_task(lra.task)
    config = model_config(lra, task)
    if not is_ours(config.model_type):
        task = task.for_plain_tokens()
    model = build_model(lra, task, config)
    splits = use_rows(task.load(str(lra.source)), {"validation": lra.validation_rows, "test": lra.test_rows})
    tokenizer = None if task.tokenizer is None else task.tokenizer(task.longest(lra.max_length))
    encoded = tokenize(splits, tokenizer, lra.max_length, joined=task.plain)
    processor = task.image_processor() if tokenizer is None else tokenizer
    return Prepared(task, model, processor, task.collator(tokenizer), splits, encoded)


def use_rows(splits: DatasetDict, rows: dict[str, int | None]) -> DatasetDict:
    """The splits; of those that `rows` names, only so many first rows.

    Raises:
        ValueError: a split does not have so many rows.
    """
    chosen = DatasetDict(splits)
    for name, count in rows.items():
        if count is not None:
            if not 0 < count <= len(splits[name]):
                raise ValueError(f"the {name} split has {len(splits[name]):,} rows, {count:,} were asked for")
            chosen[name] = splits[name].select(range(count))
    return chosen


def model_config(lra: LraArguments, task: LraTask) -> PreTrainedConfig:
    """The config of the model for the task, new or of a checkpoint."""
    labels = dict(enumerate(task.labels))
    fields: dict[str, Any] = {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    if lra.model_config is not None:
        check_classes(lra.model_config, task)
    if lra.model_type is None:
        return start_config(lra, **fields)
    if is_ours(lra.model_type):
        fields |= {
            "num_channels": None if task.pixels is None else 1,
            "pair_features": "concat" if task.pairs else None,
        }
    else:
        task = task.for_plain_tokens()
    sizes = {SIZES[name]: value for name, value in _mapping(lra.model_size).items()}
    # Models that read pixels embed no tokens, but their padding has an id all the same.
    size = Size(length=task.longest(lra.max_length), vocabulary=task.vocab_size() or 1, **sizes)
    return matched_config(lra.model_type, size, **fields | _mapping(lra.model_options))


def check_classes(name: str, task: LraTask) -> None:
    """Raise ValueError if a config file or preset says for how many classes it is, and the task has another number."""
    classes = number_of_classes(name)
    if classes not in (None, len(task.labels)):
        raise ValueError(
            f"{name} is for {classes} classes, and task {task.name!r} has {len(task.labels)}: take a config of that "
            "task, or leave num_labels out"
        )


def build_model(lra: LraArguments, task: LraTask, config: PreTrainedConfig) -> PreTrainedModel:
    """A classifier for the task, new or from a checkpoint.

    Raises:
        ValueError: it cannot read the rows of the task, or has too few positions.
    """
    check_input(task, config)
    check_length(config, task.longest(lra.max_length))
    return start_model(task.auto_class, lra, config)


def check_input(task: LraTask, config: PreTrainedConfig) -> None:
    """Raise ValueError if a model with this config cannot read the rows of the task."""
    tokens = task.vocab_size()
    if tokens is not None and config.vocab_size < tokens:
        raise ValueError(f"task {task.name!r} has {tokens} tokens, and the model vocab_size={config.vocab_size}")
    pairs, pixels = (task.pairs, task.pixels is not None) if not task.plain else (False, False)
    pair_features, channels = (getattr(config, name, None) for name in ("pair_features", "num_channels"))
    if pairs != (pair_features is not None):
        kind, remedy = ("pairs", "'concat'") if pairs else ("single sequences", "null")
        raise ValueError(
            f"task {task.name!r} has {kind}, but the model has pair_features={pair_features!r}: set it to {remedy}"
        )
    if pixels != (channels is not None):
        kind, remedy = ("grey pictures", "1") if pixels else ("tokens", "null")
        raise ValueError(
            f"task {task.name!r} has {kind}, but the model has num_channels={channels!r}: set it to {remedy}"
        )
