"""The package itself: imports, versions, names, sizes of files, tokenizer, metrics, files."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline
from typer.testing import CliRunner

import hf_effattn
from hf_effattn.cli import app
from hf_effattn.files import read_json, write_json
from hf_effattn.metrics import load_metric
from hf_effattn.tokenization import VOCAB_SIZE
from hf_effattn.training.measure import environment
from tests.models.variants import FAMILIES, tiny_model


ROOT = Path(__file__).parents[1]


LIGHT = """
import sys, torch, transformers
import hf_effattn
heavy = {"transformers.modeling_utils", "datasets", "evaluate", "triton", "sklearn"} & sys.modules.keys()
assert not heavy, heavy
assert transformers.AutoConfig.for_model("simpletron") is not None
config = hf_effattn.SimpleTronConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)
assert type(transformers.AutoModel.from_config(config)) is hf_effattn.SimpleTronModel
import typer.testing
from hf_effattn.cli import app
assert "demo" in typer.testing.CliRunner().invoke(app, ["--help"]).stdout
assert not {"gradio", "matplotlib"} & sys.modules.keys()
"""


def test_importing_the_package_imports_no_models_and_still_registers_them():
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", LIGHT], check=True)


def test_the_version_is_in_every_report():
    version = hf_effattn.__version__
    assert environment().versions["hf_effattn"] == version
    assert ["hf_effattn", version] in [
        line.split() for line in CliRunner().invoke(app, ["doctor"]).stdout.splitlines()
    ]


def test_files_and_functions_stay_short():
    """Files have fewer than 500 lines, functions fewer than 60, their docstrings not counted."""
    lengths, limits = {}, {}
    for path in [path for folder in ("hf_effattn", "training_scripts") for path in (ROOT / folder).rglob("*.py")]:
        name, text = path.relative_to(ROOT).as_posix(), path.read_text()
        lengths[name], limits[name] = len(text.splitlines()), 500
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                documented = node.body[0] if ast.get_docstring(node) is not None else None
                docstring = documented.end_lineno - documented.lineno + 1 if documented else 0
                function = f"{name}:{node.lineno} {node.name}"
                lengths[function], limits[function] = node.end_lineno - node.lineno + 1 - docstring, 60
    longer = {name: length for name, length in lengths.items() if length >= limits[name]}
    assert not longer, "cut them into parts that each do one thing"


def test_every_public_name_exists():
    for name in hf_effattn.__all__:
        assert getattr(hf_effattn, name) is not None
    assert set(hf_effattn.__all__) <= set(dir(hf_effattn))
    with pytest.raises(AttributeError, match="no attribute 'LunarModel'"):
        hf_effattn.LunarModel  # noqa: B018


def test_editors_and_type_checkers_find_every_public_name(tmp_path):
    """They read a stub, because the package imports its names when they are first used."""
    code = "from training_scripts.public_names import STUB, stub; assert STUB.read_text() == stub()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, "run: python training_scripts/public_names.py"
    uses = [f"reveal_type(hf_effattn.{name})" for name in hf_effattn.__all__]
    lines = ["import hf_effattn", *uses, "hf_effattn.LunarModel"]
    (tmp_path / "user.py").write_text("\n".join(lines))
    # Without the types of torch and transformers, which take a minute to read.
    options = ["--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent", "--cache-dir=/dev/null"]
    command = [sys.executable, "-m", "mypy", *options, "user.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
    )
    *revealed, error, _ = done.stdout.splitlines()
    assert 'Module has no attribute "LunarModel"' in error, done.stdout + done.stderr
    found = dict(zip(hf_effattn.__all__, revealed, strict=True))
    assert "-> hf_effattn.models.configuration_simpletron.SimpleTronConfig" in found["SimpleTronConfig"]
    assert "-> hf_effattn.models.modeling_luna.LunaModel" in found["LunaModel"]
    assert "def (query: " in found["linear_attention"]


def test_a_family_names_the_heads_it_has():
    family = hf_effattn.list_families()[0]
    with pytest.raises(ValueError, match="SimpleTron has no AutoModelForCTC"):
        family.model_class("AutoModelForCTC")


@pytest.mark.parametrize("text", ["plain", "Ünïcode 漢字 🙂", "\0 tab\t nl\n", "  two  spaces ", ""])
def test_bytes_survive_the_tokenizer(text):
    tokenizer = hf_effattn.byte_tokenizer(100)
    ids = tokenizer(text)["input_ids"]
    assert ids == [1, *(4 + byte for byte in text.encode())]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_words_of_a_text_of_bytes():
    """Whole words are masked, and labelled, by them."""
    words = hf_effattn.byte_tokenizer(100)("Anna is in Ústí, 12").word_ids()
    expected = [(0, "Anna"), (1, " is"), (2, " in"), (3, " Ústí"), (4, ","), (5, " 12")]
    assert words == [None, *(number for number, word in expected for _ in word.encode())]


def test_configs_have_a_token_for_every_byte_by_default():
    assert len(hf_effattn.byte_tokenizer(8)) == VOCAB_SIZE
    for family in hf_effattn.list_families():
        assert family.config_class().vocab_size == VOCAB_SIZE


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_the_token_classification_pipeline_finds_pieces_of_the_text(strategy, monkeypatch):
    text, names = "Nováková is in Ústí nad Labem", {"Nováková": "PER", "Ústí nad Labem": "LOC"}
    tokenizer = hf_effattn.byte_tokenizer(80)
    labels = {0: "O", 1: "I-PER", 2: "I-LOC"}
    model = tiny_model(FAMILIES[0], "AutoModelForTokenClassification", torch.float32, vocab_size=260, id2label=labels)
    found = np.zeros(len(tokenizer(text)["input_ids"]), dtype=int)
    for label, name in enumerate(names, start=1):
        start = 1 + len(text[: text.index(name)].encode())
        found[start : start + len(name.encode())] = label
    logits = torch.nn.functional.one_hot(torch.from_numpy(found), 3)[None].float()
    monkeypatch.setattr(model, "forward", lambda **inputs: {"logits": logits})
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)
    entities = tag(text)
    assert {text[entity["start"] : entity["end"]]: entity["entity_group"] for entity in entities} == names
    if strategy == "simple":
        assert {entity["word"]: entity["entity_group"] for entity in entities} == names


def test_tokenizer_pairs_padding_and_truncation(tmp_path):
    tokenizer = hf_effattn.byte_tokenizer(8)
    assert tokenizer("ab", "c")["input_ids"] == [1, 101, 102, 2, 103]
    assert len(tokenizer("a" * 50, truncation=True)["input_ids"]) == 8
    batch = tokenizer(["abc", "a"], padding=True)
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch["attention_mask"][1] == [1, 1, 0, 0]
    assert len(tokenizer) == 260
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again("[MASK] é")["input_ids"] == tokenizer("[MASK] é")["input_ids"]
    assert (again.model_max_length, again.mask_token, again.eos_token) == (8, "[MASK]", "[SEP]")
    hf_effattn.byte_tokenizer(8, padding_side="left").save_pretrained(tmp_path)
    assert type(tokenizer).from_pretrained(tmp_path)(["abc", "a"], padding=True)["attention_mask"][1] == [0, 0, 1, 1]


def test_accuracy_comes_with_its_interval():
    score = load_metric("accuracy").compute(predictions=[1] * 60 + [0] * 40, references=[1] * 100)
    assert score["accuracy"] == 0.6
    # Wilson's interval for 60 of 100, from its closed form.
    z, n, p = 1.959963984540054, 100, 0.6
    centre, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z * ((p * (1 - p) + z * z / 4 / n) / n) ** 0.5 / (1 + z * z / n),
    )
    assert score["accuracy_low"] == pytest.approx(centre - half)
    assert score["accuracy_high"] == pytest.approx(centre + half)


def test_f1_and_unknown_metrics():
    assert load_metric("f1").compute(predictions=[1, 1, 0, 0], references=[1, 0, 1, 0])["f1"] == 0.5
    with pytest.raises(ValueError, match="ships the metrics"):
        load_metric("bleu")


def test_json_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "sub" / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"b": torch.device("cpu")})
    assert read_json(path) == {"a": 1}
    assert [item.name for item in path.parent.iterdir()] == ["results.json"]
    path.write_text(json.dumps({"a": 1})[:-2])
    with pytest.raises(ValueError, match=r"results.json is damaged .*; delete it and run again"):
        read_json(path)
