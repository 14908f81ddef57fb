"""Train and score a masked language model on texts of your own with `transformers.Trainer`.

    python training_scripts/run_mlm.py --recipe training_scripts/recipes/mlm.yaml --train_file texts.txt \
        --model_config convluna/quickstart --output_dir runs/convluna-mlm

The texts are plain, csv, json lines or parquet, or a ``--dataset`` of the `datasets` library. By default they are
chunked; with ``--line_by_line true`` each is a row of its own, and cut. Training draws new masks in every epoch; those
of the validation and test rows are drawn once, so that scores compare. The rest is as in ``run_classification.py``.
"""

import dataclasses
import sys
from functools import partial
from typing import Any

from datasets import DatasetDict
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from hf_effattn.data.checked_cache import checked_map
from hf_effattn.tokenization import is_byte_tokenizer
from hf_effattn.training.arguments import argument
from hf_effattn.training.language import (
    LANGUAGE_SCORES,
    EpochCallback,
    MaskingCollator,
    chunk_texts,
    cut_lines,
    language_scores,
    token_losses,
)
from hf_effattn.training.setup import parse_and_seed
from hf_effattn.training.start import config_for_tokenizer, load_tokenizer, start_model
from hf_effattn.training.train import train_and_score
from hf_effattn.training.trainer import CheckedTrainer
from hf_effattn.training.user_data import UserRunArguments, check_texts, is_running, load_splits


@dataclasses.dataclass
class MaskedArguments(UserRunArguments):
    """What to train on what."""

    line_by_line: bool = argument("cut every text instead of chunking all", False)
    mlm_probability: float = argument("share of the tokens to predict", 0.15)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"--mlm_probability must lie between 0 and 1, got {self.mlm_probability}")


def main(command_line: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    run, training = parse_and_seed(MaskedArguments, command_line, __doc__, LANGUAGE_SCORES)
    if training.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers would keep the masks of the first epoch: leave it out")
    tokenizer = load_tokenizer(run)
    with training.main_process_first():
        splits = load_splits(run, {run.text_column: "text"}, running_text=not run.line_by_line)
        check_texts(splits, "text")
        config = config_for_tokenizer(run, tokenizer)
        masks = DataCollatorForLanguageModeling(tokenizer, mlm_probability=run.mlm_probability)
        collate = MaskingCollator(masks, training.seed)
        encoded = encode(run, splits, tokenizer, collate)
    trainer = CheckedTrainer(
        model=start_model("AutoModelForMaskedLM", run, config),
        args=training,
        data_collator=collate,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        preprocess_logits_for_metrics=partial(token_losses, shift=False),
        compute_metrics=partial(language_scores, bytes_are_tokens=is_byte_tokenizer(tokenizer)),
        callbacks=[EpochCallback(collate)],
    )
    return train_and_score(trainer, run, splits, encoded.get("test")).to_dict()


def encode(
    run: MaskedArguments, splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, collate: MaskingCollator
) -> DatasetDict:
    """Rows of tokens; those of the validation and test splits are masked already."""
    if run.line_by_line:
        rows = cut_lines(splits, tokenizer, run.max_length)
    else:
        rows = chunk_texts(splits, tokenizer, run.max_length, is_running(run, running_text=True))
    held_out = {name: checked_map(split, collate.masked) for name, split in rows.items() if name != "train"}
    return DatasetDict({"train": rows["train"], **held_out})


if __name__ == "__main__":
    main(sys.argv[1:])
