"""Train and score a text classifier on data of your own with `transformers.Trainer`.

    python training_scripts/run_classification.py --recipe training_scripts/recipes/classification.yaml \
        --train_file train.csv --test_file test.csv --text_column review --label_column stars \
        --model_config simpletron/quickstart --output_dir runs/stars

The data is csv, json lines or parquet, or a ``--dataset`` of the `datasets` library; with ``--pair_column`` it is
pairs of texts. The classes are the labels of the training rows. Any argument of `transformers.TrainingArguments` may
stand in the recipe or on the command line. The best checkpoint by validation score is scored once on the test split,
if there is one. The run leaves in its output folder the checkpoints to resume from, ``model/`` (a self-contained
checkpoint with its tokenizer) and ``results.json``.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from transformers import (
    AutoConfig,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedConfig,
)

from hf_effattn.data.collate import PairCollator
from hf_effattn.data.tokenize import tokenize
from hf_effattn.metrics import load_metric
from hf_effattn.training.arguments import argument
from hf_effattn.training.checks import Scores
from hf_effattn.training.labels import class_names, with_class_ids
from hf_effattn.training.matched_configs import is_ours
from hf_effattn.training.setup import parse_and_seed
from hf_effattn.training.start import config_for_tokenizer, load_tokenizer, start_model
from hf_effattn.training.train import train_and_score
from hf_effattn.training.trainer import PairTrainer
from hf_effattn.training.user_data import UserRunArguments, check_texts, load_splits


#: What is measured, beside the ends of the accuracy's interval.
SCORES = Scores(higher=("accuracy", "macro_f1", "matthews"), lower=("loss",))


@dataclasses.dataclass
class ClassificationArguments(UserRunArguments):
    """What to classify with what."""

    label_column: str = argument("column of the labels", "label")
    pair_column: str | None = argument("column of the second texts, if pairs are classified")

    def __post_init__(self) -> None:
        super().__post_init__()
        columns = [name for name in (self.text_column, self.pair_column, self.label_column) if name is not None]
        if len(set(columns)) < len(columns):
            raise ValueError(f"texts, second texts and labels are columns of their own, got {columns}")


def main(command_line: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    run, training = parse_and_seed(ClassificationArguments, command_line, __doc__, SCORES)
    tokenizer = load_tokenizer(run)
    with training.main_process_first():
        splits, names = load_labelled(run)
        config = config_for_tokenizer(run, tokenizer, **label_fields(run, names))
        joined = run.pair_column is not None and not is_ours(config.model_type)
        check_pairs(run, config)
        encoded = tokenize(splits, tokenizer, run.max_length // 2 if joined else run.max_length, joined)
    pairs = run.pair_column is not None and not joined
    trainer = PairTrainer(
        model=start_model("AutoModelForSequenceClassification", run, config),
        args=training,
        data_collator=(PairCollator if pairs else DataCollatorWithPadding)(tokenizer),
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        compute_metrics=class_scores(),
    )
    return train_and_score(trainer, run, splits, encoded.get("test")).to_dict()


def load_labelled(run: ClassificationArguments) -> tuple[DatasetDict, list[str]]:
    """The splits with the columns ``text``, ``pair_text`` if there are pairs, and ``label``; and the class names."""
    texts = {run.text_column: "text"} | ({} if run.pair_column is None else {run.pair_column: "pair_text"})
    splits = load_splits(run, texts | {run.label_column: "label"})
    for column in texts.values():
        check_texts(splits, column)
    names = class_names(splits, "label")
    return with_class_ids(splits, "label", names), names


def label_fields(run: ClassificationArguments, names: list[str]) -> dict[str, Any]:
    """The fields of the config that name the classes.

    Raises:
        ValueError: the checkpoint to start from classifies, and not into these classes.
    """
    labels = dict(enumerate(names))
    if run.model_name_or_path is not None:
        start = AutoConfig.from_pretrained(run.model_name_or_path)
        classifies = any(name.endswith("ForSequenceClassification") for name in start.architectures or [])
        if classifies and start.id2label != labels:
            raise ValueError(
                f"the checkpoint classifies into {start.id2label}, and the data has {labels}: store the labels as a "
                "ClassLabel with the checkpoint's names, or give a checkpoint without head, such as what "
                "AutoModel.from_pretrained(checkpoint).save_pretrained(folder) leaves, and its --tokenizer"
            )
    return {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}


def check_pairs(run: ClassificationArguments, config: PreTrainedConfig) -> None:
    """Raise ValueError if a model of this library reads pairs and the data has none, or the other way round.

    Other models read a pair as one sequence, with the tokenizer's separator between.
    """
    features = getattr(config, "pair_features", None)
    if is_ours(config.model_type) and (run.pair_column is not None) != (features is not None):
        remedy = "name the --pair_column, or set it to null" if run.pair_column is None else "set it to 'concat'"
        raise ValueError(
            f"there is {'no' if run.pair_column is None else 'a'} --pair_column, and the model has "
            f"pair_features={features!r}: {remedy} in its config"
        )


def class_scores() -> Callable[[EvalPrediction], dict[str, float]]:
    """A function that gives the loss, accuracy with its interval, mean F1 of the classes, and Matthews correlation.

    The loss is the mean over the rows; that of `Trainer` counts some rows twice if several processes share a last
    batch that is not whole.
    """
    accuracy, f1, matthews = (load_metric(name) for name in ("accuracy", "f1", "matthews"))

    def scores(prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        labels = torch.from_numpy(prediction.label_ids)
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), labels).item()
        rows = {"predictions": np.argmax(logits, axis=-1), "references": prediction.label_ids}
        macro = f1.compute(**rows, average="macro")["f1"]
        return {"loss": loss, **accuracy.compute(**rows), "macro_f1": macro, **matthews.compute(**rows)}

    return scores


if __name__ == "__main__":
    main(sys.argv[1:])
