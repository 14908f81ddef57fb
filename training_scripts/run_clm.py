"""Train and score a causal language model on texts of your own with `transformers.Trainer`.

    python training_scripts/run_clm.py --recipe training_scripts/recipes/clm.yaml --train_file texts.txt \
        --model_config simpletron/quickstart --output_dir runs/simpletron-clm

The texts are plain, csv, json lines or parquet, or a ``--dataset`` of the `datasets` library, and are chunked. The
rest is as in ``run_classification.py``.
"""

import sys
from functools import partial
from typing import Any

from transformers import DataCollatorForTokenClassification, PreTrainedConfig

from hf_effattn.families import find, list_families
from hf_effattn.tokenization import is_byte_tokenizer
from hf_effattn.training.language import LANGUAGE_SCORES, chunk_texts, language_scores, token_losses, with_next_tokens
from hf_effattn.training.matched_configs import is_ours
from hf_effattn.training.setup import parse_and_seed
from hf_effattn.training.start import config_for_tokenizer, load_tokenizer, start_model
from hf_effattn.training.train import train_and_score
from hf_effattn.training.trainer import CheckedTrainer
from hf_effattn.training.user_data import UserRunArguments, check_texts, is_running, load_splits


def main(command_line: list[str]) -> dict[str, Any]:
    """Run the script with a command line; returns the content of ``results.json``."""
    run, training = parse_and_seed(UserRunArguments, command_line, __doc__, LANGUAGE_SCORES)
    tokenizer = load_tokenizer(run)
    config = config_for_tokenizer(run, tokenizer)
    check_causal(config)
    with training.main_process_first():
        splits = load_splits(run, {run.text_column: "text"}, running_text=True)
        check_texts(splits, "text")
        running = is_running(run, running_text=True)
        encoded = with_next_tokens(chunk_texts(splits, tokenizer, run.max_length, running))
    trainer = CheckedTrainer(
        model=start_model("AutoModelForCausalLM", run, config),
        args=training,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        preprocess_logits_for_metrics=partial(token_losses, shift=True),
        compute_metrics=partial(language_scores, bytes_are_tokens=is_byte_tokenizer(tokenizer)),
    )
    return train_and_score(trainer, run, splits, encoded.get("test")).to_dict()


def check_causal(config: PreTrainedConfig) -> None:
    """Raise ValueError if a model with this config would see the tokens that it is to predict.

    Models of this library set `is_decoder` themselves, if their family has a causal form at all.
    """
    ours = is_ours(config.model_type)
    if ours and not find(config.model_type).causal:
        raise ValueError(
            f"{config.model_type} has no causal form: train it with run_mlm.py, or choose one of "
            f"{[family.model_type for family in list_families() if family.causal]}"
        )
    if not ours and getattr(config, "is_decoder", True) is False:
        raise ValueError(f"this {config.model_type} is an encoder: set is_decoder to true in its config")


if __name__ == "__main__":
    main(sys.argv[1:])
