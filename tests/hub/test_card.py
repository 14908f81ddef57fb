"""The model card: what it says for every kind of input, that its examples run, and that every fact has a source."""

import ast
import copy
import functools
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import hf_effattn
from hf_effattn.cli import app
from hf_effattn.files import read_json, write_json
from hf_effattn.lra.task import TASKS
from tests.hub import making
from tests.models.variants import FAMILIES
from training_scripts import ship_checkpoint


RUNS = {
    "text": FAMILIES[0],
    "retrieval_reviews": FAMILIES[1],
    "fashion_mnist": FAMILIES[3],
    "recall": FAMILIES[4],
}
FIELDS = {"recall": {"segment_length": 2}}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A function that gives the folder of a run of a task."""
    folders = {}

    def find(task):
        if task not in folders:
            with pytest.MonkeyPatch.context() as patch:
                folder = tmp_path_factory.mktemp(task)
                folders[task] = making.run(task, folder, patch, RUNS[task], **FIELDS.get(task, {}))
        return folders[task]

    return find


@pytest.fixture
def run(run_of, tmp_path):
    """A copy of the run on texts."""
    return shutil.copytree(
        run_of("text"), tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*", "README.md")
    )


def body_of(folder):
    return (folder / "README.md").read_text().split("---\n", 2)[2]


@pytest.mark.parametrize(
    ("task", "tag", "input_of_the_example"),
    [
        ("text", "text-classification", 'tokenizer(["A film to remember."]'),
        ("retrieval_reviews", "text-classification", '"pair_input_ids"'),
        ("fashion_mnist", "image-classification", "(picture / 255 - 0.286) / 0.353"),
        ("recall", "token-classification", '{"input_ids": torch.randint(260, (1, 128))}'),
    ],
)
def test_a_card_for_every_kind_of_input(run_of, tmp_path, task, tag, input_of_the_example):
    folder = run_of(task) / "model"
    hf_effattn.write_card(folder, run_of(task) / "results.json", repository=str(folder), license="mit")
    card, results = ModelCard.load(folder / "README.md"), read_json(run_of(task) / "results.json")
    assert (card.data.library_name, card.data.license, card.data.pipeline_tag) == ("transformers", "mit", tag)
    assert RUNS[task].model_type in card.data.tags
    assert [score.metric_value for score in card.data.eval_results] == [
        results["test"][name] for name in ("test_accuracy", "test_accuracy_low", "test_accuracy_high")
    ]
    assert [score.metric_type for score in card.data.eval_results] == ["accuracy", "accuracy_low", "accuracy_high"]
    assert {(score.dataset_type, score.dataset_split) for score in card.data.eval_results} == {(task, "test")}
    assert card.data.eval_results[0].dataset_args == {"sha256": results["data"]["test"]["sha256"]}
    assert "None" not in card.text and "N/A" not in card.text
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert ["trust_remote_code=True" in block for block in blocks] == [True, False]
    for block, before in zip(blocks, ("import sys; sys.modules['hf_effattn'] = None\n", ""), strict=True):
        assert input_of_the_example in block
        done = subprocess.run([sys.executable, "-c", before + block], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ast.literal_eval(done.stdout.splitlines()[-1])[0] in TASKS[task].labels


def test_a_shipped_checkpoint_has_no_code_and_says_so(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ship_checkpoint, "CARDS", tmp_path / "cards")
    ship_checkpoint.main([str(run), "mine"])
    folder = tmp_path / "cards/mine"
    assert not list(folder.glob("*.py"))
    text = body_of(folder)
    assert "There is no code here" in text and "trust_remote_code" not in text and "## Code" not in text
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block.replace("model_cards/mine", str(folder)), {})
    assert ast.literal_eval(capsys.readouterr().out.splitlines()[-1])[0] in TASKS["text"].labels
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    ship_checkpoint.main([str(folder), "mine"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files, "shipping again changes nothing"
    assert CliRunner().invoke(app, ["export", str(folder), str(tmp_path / "whole")]).exit_code == 0
    assert hf_effattn.audit_checkpoint(tmp_path / "whole").code


def test_what_a_card_says(run):
    results = read_json(run / "results.json")
    results["arguments"]["source"] = "/home/somebody/lra_release"
    results["arguments"]["model_name_or_path"] = "/home/somebody/runs/start"
    results["training_arguments"]["seed"] = 42
    write_json(run / "results.json", results)
    hf_effattn.write_card(run / "model", run / "results.json", repository="me/mine", revision="ab" * 20)
    body = body_of(run / "model")
    accuracy, low, high = (results["test"][f"test_accuracy{end}"] for end in ("", "_low", "_high"))
    for expected in (
        "# mine\n",
        "A `SimpleTronForSequenceClassification` with 16,050 parameters",
        "Q (KᵀV) / √n",
        "Yorsh et al. 2021",
        f"{accuracy:.2%}",
        f"{low:.2%} to {high:.2%}",
        f'repository, revision = "me/mine", "{"ab" * 20}"',
        "The commit above is the one that this card was written for.",
        "files of the folder `lra_release`",
        "From the weights of `runs/start`, 4 steps",
        "every text is cut at 12 tokens",
        f"`{results['data']['train']['sha256']}`",
        "| 24 ",
        "An input has at most 80 positions",
        "torch >= 2.11 (tested to 2.14) and transformers >= 5.14 (tested to 5.24)",
        results["environment"]["platform"],
        f"{results['tokens_per_second']:,.0f}",
        f"{results['peak_memory_bytes'] / 2**20:,.0f} MiB",
        torch.__version__,
    ):
        assert expected in body, expected
    assert "/home" not in body
    tables = [line.split("|") for line in body.splitlines() if line.startswith("|")]
    rows = {name.strip(" `"): value.strip(" `") for _, name, value, *_ in tables}
    assert (rows["learning_rate"], rows["seed"], rows["hidden_size"]) == ("0.01", "42", "24")
    assert "weight_decay" not in rows and "norm_position" not in rows, "defaults are left out"
    assert "output_dir" not in rows and "hub_token" not in rows
    code = hf_effattn.audit_checkpoint(run / "model").code
    assert {name: rows[name] for name in code} == code


def inside(results, path):
    """The mapping that holds the last name of a path, and that name."""
    *parents, last = path.split(".")
    return functools.reduce(dict.__getitem__, parents, results), last


def set_at(results, path, value):
    mapping, name = inside(results, path)
    mapping[name] = value


def remove_at(results, path):
    mapping, name = inside(results, path)
    del mapping[name]


@pytest.mark.parametrize(
    "path",
    [
        "parameters",
        "steps",
        "best_step",
        "tokens_per_second",
        "peak_memory_bytes",
        "model_config",
        "arguments.task",
        "arguments.source",
        "arguments.max_length",
        "training_arguments.seed",
        "training_arguments.load_best_model_at_end",
        "test.test_accuracy",
        "test.test_accuracy_low",
        "data.train.rows",
        "data.test.sha256",
        "backends.layers",
        "mixed_precision",
        "processes",
        "weights",
        "environment.device",
        "environment.torch_threads",
        "environment.versions",
    ],
)
@pytest.mark.parametrize("how", ["missing", "null"])
def test_a_missing_fact_is_an_error(run_of, tmp_path, path, how):
    results = copy.deepcopy(read_json(run_of("text") / "results.json"))
    if how == "missing":
        remove_at(results, path)
    else:
        set_at(results, path, None)
    write_json(tmp_path / "results.json", results)
    with pytest.raises(ValueError, match=rf"the results lack {path}.*run_lra\.py"):
        hf_effattn.write_card(run_of("text") / "model", tmp_path / "results.json")


NAN, DIGEST = float("nan"), "0" * 64


@pytest.mark.parametrize(
    ("path", "values"),
    [
        *((f"test.test_accuracy{end}", [9.9, -0.1, NAN, float("inf"), "0.9", True]) for end in ("", "_low", "_high")),
        ("parameters", [1, -1, 16_051, 16_050.5, "many", NAN]),
        ("steps", [-1, 0, 3.5, True, NAN]),
        ("best_step", [-1, 0, 5, "2", NAN]),
        ("processes", [0, -1, 1.5]),
        ("arguments.max_length", [0, -1]),
        ("training_arguments.seed", [-1, "0", NAN]),
        ("tokens_per_second", [0, -1.5, NAN, float("inf")]),
        ("peak_memory_bytes", [0, -1, NAN]),
        ("environment.torch_threads", [0]),
        ("environment.cpu_count", [0]),
        ("environment.platform", ["two\nlines", "\x1b[2J", 3]),
        *((f"data.{split}.rows", [-1, 0, 1.5]) for split in ("train", "validation", "test")),
        *((f"data.{split}.sha256", ["short", DIGEST[1:] + "g", 0]) for split in ("train", "validation", "test")),
    ],
)
def test_results_that_cannot_be_true_are_refused(run, path, values):
    for value in values:
        results = copy.deepcopy(read_json(run / "results.json"))
        set_at(results, path, value)
        (run / "changed.json").write_text(json.dumps(results))
        with pytest.raises(ValueError, match=f"the results have .*{path.split('.')[-1].removesuffix('_low')[:8]}"):
            hf_effattn.write_card(run / "model", run / "changed.json")
    assert not (run / "model/README.md").exists()


def test_an_accuracy_lies_inside_its_interval(run):
    results = read_json(run / "results.json")
    results["test"] |= {"test_accuracy": 0.5, "test_accuracy_low": 0.6, "test_accuracy_high": 0.7}
    write_json(run / "results.json", results)
    with pytest.raises(ValueError, match=r"an accuracy of 0\.5, outside of its interval, 0\.6 to 0\.7"):
        hf_effattn.write_card(run / "model", run / "results.json")


@pytest.mark.parametrize("field", ["train_file", "dataset"])
def test_results_on_data_of_ones_own_are_refused_with_the_reason(run, field):
    results = read_json(run / "results.json")
    del results["arguments"]["task"]
    results["arguments"][field] = "reviews.csv"
    write_json(run / "results.json", results)
    with pytest.raises(ValueError, match=r"results on data of your own: a card says what .* write README\.md by hand"):
        hf_effattn.write_card(run / "model", run / "results.json")


def test_results_from_before_a_field_existed_are_those_of_its_default(run):
    results = read_json(run / "results.json")
    assert results["model_config"].pop("norm_position") == "pre"
    write_json(run / "results.json", results)
    hf_effattn.write_card(run / "model", run / "results.json")
    del results["model_config"]["hidden_size"]
    write_json(run / "results.json", results)
    with pytest.raises(ValueError, match=r"another model \(hidden_size: 768 there, 24 here"):
        hf_effattn.write_card(run / "model", run / "results.json")


def test_a_card_written_by_hand_stays(run):
    readme = run / "model/README.md"
    write = functools.partial(hf_effattn.write_card, run / "model", run / "results.json")
    write()
    card = readme.read_bytes()
    write(license="mit")
    assert b"license: mit" in readme.read_bytes() != card, "one that nobody has changed is written anew"
    write()
    assert readme.read_bytes() == card
    assert "SHA-256 of the above" in card.decode().splitlines()[-1]
    for changed in (
        b"mine",
        b"",
        card[:-1],
        card + b"\n",
        card.replace(b"\n", b"\r\n"),
        card.replace(b"# ", b"# My ", 1),
    ):
        readme.write_bytes(changed)
        with pytest.raises(FileExistsError, match=r"README\.md was not written by `hf-effattn card`, or was changed"):
            write()
        assert readme.read_bytes() == changed


def test_no_card_is_written_for_code_of_others(run):
    with (run / "model/skeleton_heads.py").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"heads\.py: is not code of hf_effattn"):
        hf_effattn.write_card(run / "model", run / "results.json")


def test_results_of_something_else_are_refused(run_of, run):
    with pytest.raises(ValueError, match="task 'recall' is for AutoModelForTokenClassification, but the checkpoint"):
        hf_effattn.write_card(run / "model", run_of("recall") / "results.json")
    with pytest.raises(ValueError, match=r"task 'retrieval_reviews' has the labels .*, but the checkpoint has"):
        hf_effattn.write_card(run / "model", run_of("retrieval_reviews") / "results.json")
    results = read_json(run / "results.json")
    write_json(run / "results.json", results | {"weights": {"model.safetensors": "0" * 64}})
    with pytest.raises(
        ValueError, match=r"the results are those of other weights .*: take the folder model/ of the run"
    ):
        hf_effattn.write_card(run / "model", run / "results.json")
    results["model_config"] |= {"hidden_size": 48, "model_type": "luna"}
    write_json(run / "results.json", results)
    with pytest.raises(ValueError, match=r"another model \(hidden_size: 48 there, 24 here, model_type: 'luna' there"):
        hf_effattn.write_card(run / "model", run / "results.json")
    assert not (run / "model/README.md").exists()


def test_without_the_best_step_the_last_one_was_kept(run):
    results = read_json(run / "results.json")
    results["training_arguments"]["load_best_model_at_end"] = False
    results["best_step"] = None
    write_json(run / "results.json", results)
    hf_effattn.write_card(run / "model", run / "results.json")
    assert "4 steps.\n" in body_of(run / "model")
    assert "license" not in (run / "model/README.md").read_text(), "nobody has said which"
    assert '"path/to/this/folder", "main"' in body_of(run / "model")


def test_the_command(run):
    arguments = ["card", str(run / "model"), "--results", str(run / "results.json")]
    done = CliRunner().invoke(app, [*arguments, "--repository", "me/mine", "--license", "cc0-1.0"])
    assert done.exit_code == 0
    assert f"next: hf-effattn push {run / 'model'} me/mine" in done.stdout
    assert ModelCard.load(run / "model/README.md").data.model_name == "mine"
    assert ModelCard.load(run / "model/README.md").data.license == "cc0-1.0"
    done = CliRunner().invoke(app, [*arguments, "--revision", "main"])
    assert done.exit_code == 1
    assert "refused: revision must be the 40 hexadecimal digits of a commit, got 'main'" in done.stderr
    done = CliRunner().invoke(app, [*arguments[:3], str(run / "nothing.json")])
    assert done.exit_code == 1
    assert "failed: " in done.stderr and "nothing.json" in done.stderr


def test_the_command_says_which_extra_it_needs(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "hf_effattn.cards.card", raising=False)
    done = CliRunner().invoke(app, ["card", str(run / "model"), "--results", str(run / "results.json")])
    assert done.exit_code == 1
    assert 'failed: jinja2 is not installed: pip install "hf_effattn[train]"' in done.stderr
