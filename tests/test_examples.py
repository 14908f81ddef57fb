"""The code of the documents runs: README, pages of docs/ and notebooks, and the commands name what exists."""

import json
import re
import shlex

import pytest
from transformers import HfArgumentParser, TrainingArguments
from typer.testing import CliRunner

import hf_effattn
from hf_effattn.cli import app
from hf_effattn.presets import find_preset
from hf_effattn.training.lra import LraArguments
from hf_effattn.training.recipes import parse_recipe
from hf_effattn.training.user_data import UserRunArguments
from tests.test_documents import ROOT, code_blocks
from training_scripts.run_classification import ClassificationArguments


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    return code_blocks(path.read_text(), language)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the code of a document runs: the checkpoints that it names are there."""
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkpoint(folder):
    """What the documents call ``path/to/checkpoint``."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = hf_effattn.SimpleTronForSequenceClassification(hf_effattn.SimpleTronConfig(**sizes))
    hf_effattn.export_checkpoint(model, hf_effattn.byte_tokenizer(4096), folder / "path/to/checkpoint")


def run(code, path, names):
    exec(compile(code, name_of(path), "exec"), names)


@pytest.mark.parametrize("number", range(3))
def test_every_example_of_the_readme_runs_by_itself(number, folder):
    examples = blocks(ROOT / "README.md", "python")
    assert len(examples) == 3, "raise the range above"
    run(examples[number], ROOT / "README.md", {})


WITH_EXAMPLES = [path for path in PAGES[1:] if blocks(path, "python")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=name_of)
def test_the_examples_of_a_page_run_one_after_the_other(path, checkpoint):
    names = {}
    for code in blocks(path, "python"):
        run(code, path, names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_run(path, folder):
    """With tiny sizes, which replace those of the notebook's first cell of code."""
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    tiny, names = notebook["metadata"]["hf_effattn"]["tiny"], {}
    run("".join(cells[0]["source"]), path, names)
    assert tiny.keys() == names.keys() - {"__builtins__"}
    names |= tiny
    for cell in cells[1:]:
        run("".join(cell["source"]), path, names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebooks_have_no_outputs(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def commands(path):
    """The commands of a document, split as a shell splits them."""
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


COMMANDS = [(path, words) for path in PAGES for words in commands(path)]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("path", "words"), COMMANDS, ids=lambda value: " ".join(value[:3]) if type(value) is list else ""
)
def test_commands_name_what_exists(path, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    match words:
        case ["make", target]:
            assert target in TARGETS
        case ["hf-effattn", command, *rest]:
            help_text = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, [command, "--help"]).stdout
            assert "Usage" in help_text
            assert all(word in help_text for word in rest if word.startswith("--"))
        case ["python", "-m", module, *_]:
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
        case ["python", script, *rest]:
            check_script(script, rest)
        case _:
            assert words[0] in ("git", "pip"), words


ARGUMENTS = {
    "training_scripts/run_classification.py": ClassificationArguments,
    "training_scripts/run_clm.py": UserRunArguments,
    "training_scripts/run_lra.py": LraArguments,
}


def check_script(script, rest):
    """The script exists, and so do its options, its recipe, and its preset."""
    assert (ROOT / script).is_file()
    parser = HfArgumentParser((ARGUMENTS[script], TrainingArguments))
    run_arguments, _ = parse_recipe(parser, rest)
    assert find_preset(run_arguments.model_config)
