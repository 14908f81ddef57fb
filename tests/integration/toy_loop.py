"""Runs the Accelerate script on a toy task, alone or under torchrun: ``python -m tests.integration.toy_loop …``."""

import sys

from datasets import ClassLabel, Dataset, DatasetDict

import hf_effattn
from hf_effattn.lra import LraTask
from hf_effattn.lra.task import TASKS
from training_scripts import run_lra_no_trainer


def toy_splits(source):
    """Texts of ``a`` against texts of ``b``, of different lengths."""
    rows = {"text": [("ab"[i % 2] * (3 + i % 5)) for i in range(64)], "label": [i % 2 for i in range(64)]}
    split = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["a", "b"]))
    # Thirteen rows are no whole number of batches for two processes.
    return DatasetDict(train=split, validation=split.select(range(13)), test=split.select(range(16, 48)))


TOY = LraTask("toy", ("a", "b"), ("made",), toy_splits, hf_effattn.byte_tokenizer)


def load_script():
    """The script as a module that knows the toy task, too."""
    TASKS["toy"] = TOY
    return run_lra_no_trainer


if __name__ == "__main__":
    load_script().main(sys.argv[1:])
