"""The Accelerate script: it learns, two processes equal one, and nothing that it is told goes unread."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import HfArgumentParser, TrainingArguments

from hf_effattn.files import read_json
from hf_effattn.training.lra import LraArguments
from hf_effattn.training.recipes import parse_recipe, read_recipe
from tests.integration.toy_loop import load_script
from tests.models.variants import FAMILIES, over_families, tiny_config


(LUNA,) = (family for family in FAMILIES if family.model_type == "luna")


@pytest.fixture
def arguments(tmp_path):
    """A function that makes the command line for a run."""

    def make(folder, family=FAMILIES[0], fields=None, **options):
        tiny_config(family, vocab_size=260, hidden_dropout_prob=0.0, **fields or {}).save_pretrained(
            tmp_path / "config"
        )
        given = {
            "task": "toy",
            "model_config": tmp_path / "config" / "config.json",
            "max_length": 10,
            "output_dir": tmp_path / folder,
            "max_steps": 12,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "metric_for_best_model": "accuracy",
            "load_best_model_at_end": True,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "disable_tqdm": True,
        } | options
        # What keeps the best weights has to be saved whenever it is evaluated.
        given["save_steps"] = given["eval_steps"]
        return [f"--{name}={value}" for name, value in given.items()]

    return make


@over_families
def test_learns(arguments, tmp_path, family):
    results = load_script().main(arguments("run", family, max_steps=30, eval_steps=10))
    assert results["test"]["test_accuracy"] == 1.0, "the toy task is learnt"
    assert read_json(tmp_path / "run" / "results.json")["test"] == results["test"]
    assert (tmp_path / "run/model/model.safetensors").is_file()


def test_is_as_short_as_the_readme_says():
    assert len(Path(load_script().__file__).read_text().splitlines()) < 250


def run_processes(count, arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.integration.toy_loop", "--use_cpu=true", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


# The last tokens of Luna that classifies its memory are read by nothing, and have no gradients.
@pytest.mark.parametrize(("family", "fields"), [(FAMILIES[0], {}), (LUNA, {"pooling": "memory"})])
def test_two_processes_equal_one_with_twice_the_batch(arguments, tmp_path, family, fields):
    options = {"family": family, "fields": fields}
    options |= {"weight_decay": 0.1, "warmup_steps": 4, "lr_scheduler_type": "inverse_sqrt", "max_grad_norm": 1.0}
    run_processes(1, arguments("one", per_device_train_batch_size=8, **options))
    run_processes(2, arguments("two", per_device_train_batch_size=4, **options))
    one, two = (read_json(tmp_path / folder / "results.json") for folder in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert [entry["accuracy"] for entry in one["log"]] == [entry["accuracy"] for entry in two["log"]]
    weights = [load_file(tmp_path / folder / "model/model.safetensors") for folder in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_accumulated_batches_equal_one_batch(arguments, tmp_path):
    script = load_script()
    script.main(arguments("whole", per_device_train_batch_size=8))
    script.main(arguments("parts", per_device_train_batch_size=4, gradient_accumulation_steps=2))
    weights = [load_file(tmp_path / folder / "model/model.safetensors") for folder in ("whole", "parts")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, r"does not read \['label_smoothing_factor'\]"),
        ({"resume": True}, "this script has no .'resume'"),
        ({"max_steps": -1}, "give max_steps and eval_steps"),
    ],
)
def test_what_it_would_not_do_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        load_script().main(arguments("run", **options))


def test_training_stops_when_it_gets_no_better(arguments):
    still = {"max_steps": 40, "eval_steps": 2, "learning_rate": 0, "patience": 3}
    results = load_script().main(arguments("run", **still))
    assert results["steps"] == 8, "the first evaluation, and three that are no better"
    assert results["best_step"] == 2 and [entry["step"] for entry in results["log"]] == [2, 4, 6, 8]


RECIPES = Path(__file__).parents[2] / "training_scripts" / "recipes"


@pytest.mark.parametrize(
    "path", [RECIPES / "quickstart.yaml", *sorted(RECIPES.glob("[cf][pu]*/*.yaml"))], ids=lambda path: path.stem
)
def test_it_reads_the_recipes_of_the_other_script(path):
    script = load_script()
    model = "--model_type=simpletron" if "model_size" in read_recipe(path) else "--model_config=config.json"
    parser = HfArgumentParser((LraArguments, TrainingArguments))
    script.check_read(*parse_recipe(parser, [f"--recipe={path}", model]))


def test_an_earlier_run_is_not_overwritten(arguments, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/results.json").touch()
    with pytest.raises(FileExistsError, match="holds an earlier run"):
        load_script().main(arguments("run"))
