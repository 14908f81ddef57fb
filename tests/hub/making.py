"""Checkpoints to test with: tiny ones, and runs of the training script on toy data, under the names of real tasks."""

import dataclasses

import numpy as np
import torch
from datasets import Dataset, DatasetDict

import hf_effattn
from hf_effattn.lra.image import pictures
from hf_effattn.lra.task import TASKS
from tests.models.variants import FAMILIES, tiny_config, tiny_model
from training_scripts import run_lra


TEXTS = {"text": ["aaa" if i % 2 else "bbbb" for i in range(24)], "label": [i % 2 for i in range(24)]}
ROWS = {
    "text": lambda: Dataset.from_dict(TEXTS),
    "retrieval_reviews": lambda: Dataset.from_dict(TEXTS | {"pair_text": ["aa"] * 24}),
    "fashion_mnist": lambda: pictures(
        np.arange(24 * 16, dtype=np.uint8).reshape(24, 4, 4), np.arange(24) % 10, TASKS["fashion_mnist"].labels
    ),
    "recall": lambda: Dataset.from_dict({"input_ids": [[1, 7, 4]] * 24, "labels": [[-100, -100, 1]] * 24}),
}
FIELDS = {"retrieval_reviews": {"pair_features": "concat"}, "fashion_mnist": {"num_channels": 1}}


def export_tiny(family, auto_class, folder, **options):
    model = tiny_model(family, auto_class, dtype=torch.float32, **options)
    hf_effattn.export_checkpoint(model, hf_effattn.byte_tokenizer(80), folder)
    return model


def run(task, folder, monkeypatch, family=FAMILIES[0], **fields):
    """The folder of a short run, with ``model/`` and ``results.json``."""
    rows = ROWS[task]()
    splits = DatasetDict(train=rows, validation=rows.select(range(8)), test=rows.select(range(8, 24)))
    monkeypatch.setitem(TASKS, task, dataclasses.replace(TASKS[task], load=lambda source: splits, length=None))
    # The backend that checkpoints have wherever they are loaded, so that logits can be compared to the bit.
    fields = FIELDS.get(task, {}) | {"attention_backend": "torch", "vocab_size": 260} | fields
    tiny_config(family, **fields).save_pretrained(folder / "config")
    arguments = {
        "task": task,
        "model_config": folder / "config/config.json",
        "max_length": 12,
        "output_dir": folder / "run",
        "max_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "learning_rate": 1e-2,
        "metric_for_best_model": "accuracy",
        "load_best_model_at_end": True,
        "disable_tqdm": True,
    }
    run_lra.main([f"--{name}={value}" for name, value in arguments.items()])
    return folder / "run"
