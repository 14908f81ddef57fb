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

from hf_effattn.lra.checked_cache import checked_map
from hf_effattn.tokenization import is_byte_tokenizer
from hf_effattn.training.language import (
    LANGUAGE_SCORES,
    EpochCallback,
    MaskingCollator,
    chunk_texts,
    cut_lines,
    language_scores,
    token_losses,
)
from hf_effattn.training.run import (
    RunArguments,
    begin,
    load_tokenizer,
    start_config,
    start_model,
    train_and_score,
)
from hf_effattn.training.trainer import CheckedTrainer
from hf_effattn.training.user_data import check_texts, is_running, load_splits


@dataclasses.dataclass
class MaskedArguments(RunArguments):
    """What to train on what."""

    line_by_line: bool = dataclasses.field(default=False, metadata={"help": "cut every text instead of chunking all"})
    mlm_probability: float = dataclasses.field(default=0.15, metadata={"help": "share of the tokens to predict"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"--mlm_probability must lie between 0 and 1, got {self.mlm_probability}")


def main(arguments: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    run, training = begin(MaskedArguments, arguments, __doc__, **LANGUAGE_SCORES)
    if training.dataloader_persistent_workers:
        raise ValueError("dataloader_persistent_workers would keep the masks of the first epoch: leave it out")
    tokenizer = load_tokenizer(run)
    with training.main_process_first():
        splits = load_splits(run, {run.text_column: "text"}, running_text=not run.line_by_line)
        check_texts(splits, "text")
        config = start_config(run, tokenizer)
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
    return train_and_score(trainer, run, splits, encoded.get("test"))


def encode(
    run: MaskedArguments, splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, collate: MaskingCollator
) -> DatasetDict:
    """Rows of tokens, masked except for those to train on."""
    if run.line_by_line:
        rows = cut_lines(splits, tokenizer, run.max_length)
    else:
        rows = chunk_texts(splits, tokenizer, run.max_length, is_running(run, running_text=True))
    held_out = {name: checked_map(split, collate.masked) for name, split in rows.items() if name != "train"}
    return DatasetDict({"train": rows["train"], **held_out})


if __name__ == "__main__":
    main(sys.argv[1:])
