"""The training script: end to end, resumed to the bit, and refusing what would lose or confuse results."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    HfArgumentParser,
    TrainerCallback,
    TrainingArguments,
    pipeline,
)
from transformers.optimization import get_inverse_sqrt_schedule

import hf_effattn
from hf_effattn.families import find
from hf_effattn.files import read_json
from hf_effattn.lra import LraTask, get_task
from hf_effattn.lra.image import pictures
from hf_effattn.lra.task import TASKS
from hf_effattn.training.checkpoint_files import damage
from hf_effattn.training.checkpoints import ARGUMENTS, LOCK, last_complete_checkpoint
from hf_effattn.training.lra import LraArguments, build_model, model_config
from hf_effattn.training.measure import ThroughputCallback
from hf_effattn.training.recipes import parse_recipe
from tests.models.variants import FAMILIES, over_families, random_ids, tiny_config
from tests.numerics import assert_close
from training_scripts import run_lra


ROOT = Path(__file__).parents[2]


def toy_splits(source):
    """Texts of ``a`` against texts of ``b``: learnt in a few steps."""
    rows = {"text": [("ab"[i % 2] * (3 + i % 5)) for i in range(64)], "label": [i % 2 for i in range(64)]}
    split = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["a", "b"]))
    return DatasetDict(train=split, validation=split.select(range(16)), test=split.select(range(16, 48)))


@pytest.fixture
def toy_run(monkeypatch, tmp_path):
    """A function that runs the script on the toy task, with further arguments."""
    task = LraTask(
        name="toy", labels=("a", "b"), sources=("made",), load=toy_splits, tokenizer=hf_effattn.byte_tokenizer
    )

    def run(folder, family=FAMILIES[0], steps=8, fields=None, task=task, **options):
        monkeypatch.setitem(TASKS, "toy", task)
        config = tiny_config(family, **{"vocab_size": 260, "hidden_dropout_prob": 0.1} | (fields or {}))
        config.save_pretrained(tmp_path / "config")
        arguments = {
            "task": "toy",
            "model_config": tmp_path / "config" / "config.json",
            "max_length": 10,
            "output_dir": tmp_path / folder,
            "max_steps": steps,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_steps": 2,
            "learning_rate": 1e-2,
            "metric_for_best_model": "accuracy",
            "load_best_model_at_end": True,
            "disable_tqdm": True,
        } | options
        given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in arguments.items()}
        return run_lra.main([f"--{name}={value}" for name, value in given.items() if value is not None])

    return run


@over_families
def test_end_to_end(toy_run, tmp_path, family):
    results = toy_run("run", family, steps=30, eval_steps=10, save_steps=10)
    assert results["test"]["test_accuracy"] == 1.0, "the toy task is learnt"
    assert results["test"]["test_accuracy_low"] < 1.0
    stored = read_json(tmp_path / "run" / "results.json")
    assert stored["test"] == results["test"]
    assert stored["arguments"]["source"] == "made"
    assert stored["training_arguments"]["seed"] == 42
    assert stored["data"]["test"]["rows"] == 32
    assert len(stored["data"]["train"]["sha256"]) == 64
    assert stored["environment"]["versions"]["torch"] == torch.__version__
    assert stored["tokens_per_second"] > 0
    assert stored["peak_memory_bytes"] > 10**7
    assert stored["validation_accuracy"] == 1.0
    folder = tmp_path / "run" / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "a", 1: "b"}
    assert stored["parameters"] == model.num_parameters()
    ids = random_ids(2, 6)
    hf_effattn.verify_checkpoint(folder, "AutoModelForSequenceClassification", {"input_ids": ids}, model(ids).logits)


def toy_pairs(source):
    """Pairs of ``a`` or ``b``: the same letter or not."""
    pairs = [("ab"[i % 2] * (3 + i % 5), "ab"[i // 2 % 2] * (2 + i % 3)) for i in range(64)]
    rows = {
        "text": [a for a, _ in pairs],
        "pair_text": [b for _, b in pairs],
        "label": [a[0] == b[0] for a, b in pairs],
    }
    split = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["different", "same"]))
    return DatasetDict(train=split, validation=split.select(range(16)), test=split.select(range(16, 48)))


def test_a_model_of_transformers_runs_under_the_same_recipe(toy_run):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    results = toy_run(
        "run", model_config=None, model_type="bert", model_size=size, steps=40, save_steps=40, eval_steps=40
    )
    assert results["test"]["test_accuracy"] == 1.0, "the toy task is learnt"
    assert results["backends"] is None
    assert results["model_config"]["model_type"] == "bert" and results["model_config"]["hidden_size"] == 16


def test_measures_are_logged_on_request(toy_run):
    results = toy_run("run", find("luna"), diagnose=True)
    measured = [entry for entry in results["log"] if "diagnostics/layer_0/memory_cosine" in entry]
    assert [entry["step"] for entry in measured] == [2, 4, 6, 8], "after every evaluation but that of the test split"


def test_pairs_are_learnt(toy_run):
    task = LraTask("pairs", ("different", "same"), ("made",), toy_pairs, hf_effattn.byte_tokenizer, pairs=True)
    with pytest.raises(ValueError, match="has single sequences, but the model has pair_features='concat'"):
        toy_run("wrong", fields={"pair_features": "concat"})
    with pytest.raises(ValueError, match="has pairs, but the model has pair_features=None: set it to 'concat'"):
        toy_run("run", task=task)
    fields = {"pair_features": "interaction"}
    results = toy_run("run", steps=60, eval_steps=20, save_steps=20, fields=fields, task=task)
    assert results["test"]["test_accuracy"] == 1.0


class Killed(BaseException):
    """Ends a run as a signal would: no handler of the trainer catches it."""


def toy_pictures(source):
    """Dark pictures against light ones."""
    shades = np.array([[[40 + 150 * (i % 2)] * 4] * 4 for i in range(64)], dtype=np.uint8)
    split = pictures(shades, np.arange(64) % 2, ("dark", "light"))
    return DatasetDict(train=split, validation=split.select(range(16)), test=split.select(range(16, 48)))


PICTURES = LraTask(
    name="toy",
    labels=("dark", "light"),
    sources=("made",),
    load=toy_pictures,
    tokenizer=None,
    pixels=(0.5, 0.25),
    auto_class="AutoModelForImageClassification",
    length=17,
)


def toy_tokens(source):
    """A label for the last token alone: which of two it is."""
    rows = {"input_ids": [[1, 7, 4 + i % 2] for i in range(64)], "labels": [[-100, -100, i % 2] for i in range(64)]}
    split = Dataset.from_dict(rows)
    return DatasetDict(train=split, validation=split.select(range(16)), test=split.select(range(16, 48)))


TOKENS = LraTask(
    "toy", ("a", "b"), ("made",), toy_tokens, tokenizer=None, auto_class="AutoModelForTokenClassification"
)


@over_families
def test_pictures(toy_run, tmp_path, family):
    results = toy_run("run", family, steps=30, fields={"num_channels": 1}, task=PICTURES, max_length=None)
    assert results["test"]["test_accuracy"] == 1.0, "the toy task is learnt"
    assert results["tokens_per_second"] > 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model")
    batch = PICTURES.collator(None)(list(toy_pictures("made")["test"].with_format("numpy")))
    logits = model(batch["pixel_values"][:2]).logits
    assert torch.equal(logits.argmax(-1), batch["labels"][:2])
    # From the files of the checkpoint alone, and from pictures as they lie on disk.
    classify = pipeline("image-classification", model=str(tmp_path / "run" / "model"))
    for row, expected in zip(toy_pictures("made")["test"].select(range(2)), logits, strict=True):
        Image.fromarray(np.array(row["image"], dtype=np.uint8)).save(tmp_path / "picture.png")
        scores = {answer["label"]: answer["score"] for answer in classify(str(tmp_path / "picture.png"))}
        assert_close("scores", torch.tensor([scores["dark"], scores["light"]]), expected.softmax(-1))


@over_families
def test_a_label_per_token(toy_run, family):
    results = toy_run("run", family, steps=30, task=TOKENS)
    assert results["test"]["test_accuracy"] == 1.0, "the toy task is learnt"


@pytest.mark.parametrize(
    ("task", "channels", "message"),
    [
        (PICTURES, None, "has grey pictures, but the model has num_channels=None: set it to 1"),
        (TOKENS, 1, "has tokens, but the model has num_channels=1: set it to null"),
    ],
)
def test_a_model_that_reads_something_else_is_refused(toy_run, task, channels, message):
    with pytest.raises(ValueError, match=message):
        toy_run("run", fields={"num_channels": channels}, task=task, max_length=None)


class KillAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def killed_run(toy_run, monkeypatch, folder, step, **options):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        build = run_lra.build_trainer

        def build_and_arm(*arguments):
            trainer = build(*arguments)
            trainer.add_callback(KillAfter(step))
            return trainer

        patch.setattr(run_lra, "build_trainer", build_and_arm)
        toy_run(folder, **options)


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_resumed_run_is_bit_identical(toy_run, monkeypatch, tmp_path):
    whole = toy_run("whole")
    killed_run(toy_run, monkeypatch, "killed", step=5)
    resumed = toy_run("killed", resume=True)
    assert_same_weights(tmp_path / "whole/checkpoint-8", tmp_path / "killed/checkpoint-8")
    assert_same_weights(tmp_path / "whole/model", tmp_path / "killed/model")
    assert resumed["test"]["test_loss"] == whole["test"]["test_loss"]
    assert resumed["steps"] == 8


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"])
@pytest.mark.parametrize("how", ["cut short", "missing"])
def test_a_half_written_checkpoint_is_passed_over(toy_run, monkeypatch, tmp_path, file, how):
    killed_run(toy_run, monkeypatch, "run", step=5)
    latest = tmp_path / "run/checkpoint-4"
    assert last_complete_checkpoint(tmp_path / "run") == latest
    path = latest / file
    content = path.read_bytes()
    path.unlink()
    if how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    assert damage(latest)
    assert last_complete_checkpoint(tmp_path / "run") == tmp_path / "run/checkpoint-2"
    if file == "model.safetensors":
        toy_run("run", resume=True)
        toy_run("whole")
        assert_same_weights(tmp_path / "whole/checkpoint-8", tmp_path / "run/checkpoint-8")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": 1}, "seed=42, not 1"),
        ({"learning_rate": 1e-3}, "learning_rate=0.01, not 0.001"),
        ({"max_length": 9}, "max_length=10, not 9"),
        ({"test_rows": 8}, "test_rows=None, not 8"),
    ],
)
def test_another_run_is_not_continued(toy_run, monkeypatch, tmp_path, options, told):
    killed_run(toy_run, monkeypatch, "run", step=5)
    with pytest.raises(FileExistsError, match=f"holds another run, with {told}: restore that, or give another folder"):
        toy_run("run", resume=True, **options)
    asked = (tmp_path / "run" / ARGUMENTS).read_text()
    (tmp_path / "run" / ARGUMENTS).unlink()
    with pytest.raises(
        FileExistsError, match=rf"has checkpoints but no {ARGUMENTS}, so it is unknown which run made them"
    ):
        toy_run("run", resume=True)
    (tmp_path / "run" / ARGUMENTS).write_text(asked)
    assert toy_run("run", resume=True, logging_steps=1)["steps"] == 8, "what makes no difference may change"


def test_a_finished_run_is_not_continued(toy_run, tmp_path):
    toy_run("run", steps=2)
    with pytest.raises(FileExistsError, match=r"holds a run that is finished, see its results\.json"):
        toy_run("run", steps=2, resume=True)


def test_a_run_that_was_killed_after_its_last_step_makes_no_further_one(toy_run, tmp_path):
    whole = toy_run("run")
    (tmp_path / "run/results.json").unlink()
    assert damage(tmp_path / "run/checkpoint-8") == "it is that of the last step"
    again = toy_run("run", resume=True)
    assert again["steps"] == 8 and again["test"]["test_loss"] == whole["test"]["test_loss"]


def test_resume_without_a_checkpoint_starts_from_the_start(toy_run, tmp_path):
    assert toy_run("run", resume=True)["steps"] == 8
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


def test_an_earlier_run_is_never_overwritten(toy_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds an earlier run: pass --resume true"):
        toy_run("run")
    assert (tmp_path / "run" / "results.json").read_text() == "{}"


def test_two_runs_do_not_write_to_one_folder_at_once(toy_run, tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / LOCK), pytest.raises(FileExistsError, match="another run writes to"):
        toy_run("run", steps=2)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    assert toy_run("run", steps=2)["steps"] == 2, "a lock that is left behind holds nobody up"


def test_seeds_count(toy_run, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        toy_run(folder, seed=seed, steps=2)
    assert_same_weights(tmp_path / "a/model", tmp_path / "b/model")
    first, other = weights(tmp_path / "a/model"), weights(tmp_path / "c/model")
    assert not torch.equal(first["classifier.logits.weight"], other["classifier.logits.weight"])


def test_fine_tuning_starts_from_a_checkpoint(toy_run, tmp_path):
    toy_run("first", steps=2)
    shutil.copytree(tmp_path / "first/model", tmp_path / "start")
    arguments = ["--task=toy", f"--model_name_or_path={tmp_path}/start", "--max_length=10", "--max_steps=1"]
    run_lra.main([*arguments, f"--output_dir={tmp_path}/second", "--learning_rate=0", "--disable_tqdm=true"])
    assert_same_weights(tmp_path / "first/model", tmp_path / "second/model")


def test_tensorboard_is_an_option(toy_run, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    toy_run("run", steps=2, report_to="tensorboard", logging_steps=1)
    assert list((tmp_path / "logs").rglob("events.out.*"))


def test_a_config_of_another_task_is_refused(toy_run, tmp_path):
    with pytest.raises(ValueError, match=r"task 'toy' has 260 tokens, and the model vocab_size=259"):
        toy_run("run", fields={"vocab_size": 259})
    config = tmp_path / "ten.json"
    config.write_text((tmp_path / "config/config.json").read_text().replace("{", '{"num_labels": 10,', 1))
    with pytest.raises(ValueError, match=r"ten\.json is for 10 classes, and task 'toy' has 2: take a config of that"):
        toy_run("run", model_config=config)


def test_too_long_inputs_are_refused_before_any_data_is_read(toy_run):
    with pytest.raises(ValueError, match=r"max_length \(100\) exceeds the model's positions \(80\)"):
        toy_run("run", max_length=100)


def recipe_parser():
    return HfArgumentParser((LraArguments, TrainingArguments))


def test_recipes_fill_in_and_the_command_line_wins(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model_config: c.json\noutput_dir: out\nlearning_rate: 1e-4\nmax_steps: 7\nseed: 3\n")
    lra, training = parse_recipe(recipe_parser(), [f"--recipe={recipe}", "--seed", "5"])
    assert (lra.model_config, training.output_dir) == ("c.json", "out")
    assert (training.learning_rate, training.max_steps, training.seed) == (1e-4, 7, 5)
    as_json = tmp_path / "recipe.json"
    as_json.write_text('{"model_config": "c.json", "max_steps": 8}')
    _, training = parse_recipe(recipe_parser(), ["--recipe", str(as_json)])
    assert training.max_steps == 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.yaml", "model_config: c\nlerning_rate: 1", r"unknown keys \['lerning_rate'\]; the script knows"),
        ("r.yaml", "- a\n- b", "must hold a mapping from argument to value, got list"),
        ("r.toml", "a = 1", "a recipe is a .yaml, .yml or .json file"),
        ("r.yaml", "model_config: c\nmodel_name_or_path: d", "give exactly one of --model_config"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        parse_recipe(recipe_parser(), ["--recipe", str(tmp_path / name)])


RECIPES = ROOT / "training_scripts" / "recipes"


@pytest.mark.parametrize("recipe", [RECIPES / "quickstart.yaml", *sorted(RECIPES.glob("full/*.yaml"))], ids=str)
def test_every_recipe_has_models(recipe):
    name = recipe.stem if recipe.parent.name == "full" else "quickstart"
    configs = sorted(ROOT.glob(f"modeling_configs/*-{name}.json"))
    assert len(configs) == len(FAMILIES)
    for config in configs:
        lra, training = parse_recipe(recipe_parser(), [f"--recipe={recipe}", f"--model_config={config}"])
        assert training.per_device_train_batch_size * training.gradient_accumulation_steps in (32, 64, 128)
        task = get_task(lra.task)
        build_model(lra, task, model_config(lra, task))


def test_training_stops_when_it_gets_no_better(toy_run, monkeypatch):
    still = {"steps": 40, "learning_rate": 0, "patience": 3}
    assert toy_run("run", **still)["steps"] == 8, "the first evaluation, and three that are no better"
    killed_run(toy_run, monkeypatch, "killed", step=7, **still)
    assert toy_run("killed", resume=True, **still)["steps"] == 8, "a run that goes on has not forgotten them"


def test_weights_are_chosen_by_accuracy(toy_run):
    with pytest.raises(ValueError, match="metric_for_best_model is 'loss': weights are chosen by 'accuracy'"):
        toy_run("run", metric_for_best_model="loss")


def test_the_schedule_of_the_papers_is_inverse_sqrt():
    """lr min(1, t / w) / sqrt(max(t, w)) is transformers' inverse_sqrt with the peak lr / sqrt(w)."""
    multiplier, warmup = 0.05, 8000
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=multiplier / warmup**0.5)
    schedule = get_inverse_sqrt_schedule(optimizer, num_warmup_steps=warmup)
    for t in (0, 1, 4000, 8000, 8001, 20_000):
        expected = multiplier * min(1, t / warmup) / max(t, warmup) ** 0.5
        assert optimizer.defaults["lr"] * schedule.lr_lambdas[0](t) == pytest.approx(expected, rel=1e-12)


def test_throughput_counts_this_session_alone():
    from types import SimpleNamespace

    throughput, state = ThroughputCallback(), SimpleNamespace(num_input_tokens_seen=1000)
    assert throughput.tokens_per_second == 0.0
    throughput.on_train_begin(None, state, None)
    for _ in range(3):
        throughput.on_step_begin(None, state, None)
        state.num_input_tokens_seen += 50
        throughput.on_step_end(None, state, None)
    assert throughput.tokens == 150
    assert throughput.tokens_per_second == pytest.approx(150 / throughput.seconds)
