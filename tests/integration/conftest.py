"""A small arena for the tests of the real one: its plan, and made-up results."""

from pathlib import Path

import pytest
import yaml

from hf_effattn.training.results import RunResults
from training_scripts.arena.plan import read_plan
from training_scripts.arena.results import save_error, save_outcome


SCRIPTS = Path(__file__).parents[2] / "training_scripts"
RECIPE = {
    "task": "recall_small",
    "source": "generated",
    "max_length": 64,
    "model_size": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "validation_rows": 8,
    "test_rows": 16,
}
VARIANTS = {
    "softmax": {"title": "softmax", "model_type": "vanilla_transformer"},
    "luna": {"title": "Luna", "model_type": "luna", "options": {"memory_size": 4}},
    "convluna": {
        "title": "ConvLuna",
        "model_type": "convluna",
        "options": {"memory_size": 4},
        "filtered": "luna",
        "against_luna": "luna",
    },
    "nystrom": {
        "title": "Nystrom",
        "model_type": "nystromformer",
        # It cannot divide 64 tokens among seven landmarks.
        "options": {"num_landmarks": 7},
        "against_softmax": "softmax",
    },
}


def outcome(accuracy, steps=6):
    """What `save_outcome` takes of a run."""
    log = [{"step": step, "eval_accuracy": accuracy * step / steps, "eval_loss": 1.0} for step in (2, 4, 6)]
    log += [{"step": step, "diagnostics/layer_0/memory_cosine": 0.1 * step} for step in (2, 4, 6)]
    content = {
        "log": [*log, {"step": 6, "loss": 0.5}],
        "arguments": {},
        "training_arguments": {},
        "model_config": {},
        "processes": 1,
        "mixed_precision": "no",
        "peak_memory_bytes": 1,
        "parameters": 1234,
        "steps": steps,
        "best_step": 6,
        "validation_accuracy": accuracy,
        "test": {
            "test_accuracy": accuracy,
            "test_accuracy_low": accuracy - 0.1,
            "test_accuracy_high": accuracy + 0.1,
            "test_loss": 0.7,
        },
        "data": {split: {"rows": 1000, "sha256": "0"} for split in ("train", "validation", "test")},
        "backends": None,
        "code": "0" * 64,
        "environment": {
            "device": "cpu",
            "torch_threads": 1,
            "python": "3",
            "platform": "here",
            "cpu_count": 2,
            "versions": {"torch": "2", "transformers": "5"},
        },
    }
    return RunResults.from_dict(content)


#: Test accuracy of each seed.
SCORES = {"softmax": (0.5, 0.7), "luna": (0.30, 0.40), "convluna": (0.5, 0.61)}


@pytest.fixture
def plan_file(tmp_path):
    """A small arena of its own."""
    content = {
        "recipes": "recipes",
        "seeds": [0, 1],
        "tasks": {"small": "Small"},
        "options": {"pooling": "mean"},
        "builtin_options": {"initializer_range": 0.1},
        "variants": VARIANTS,
    }
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "arena.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "arena.yaml"


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def filled(plan_file, results):
    """The plan, with made-up results of three variants and the error of the fourth."""
    plan = read_plan(plan_file)
    for run in plan.runs():
        if run.variant.name in SCORES:
            save_outcome(run, outcome(SCORES[run.variant.name][run.seed]), results)
        else:
            save_error(run, "ValueError: too long", results)
    return plan
