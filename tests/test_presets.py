"""Presets: every name gives the config of its file, in Python and in the training scripts."""

import json
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

import hf_effattn
from hf_effattn import presets
from hf_effattn.cli import app
from hf_effattn.lra import get_task
from hf_effattn.training.lra import LraArguments, model_config
from hf_effattn.training.start import config_for_tokenizer
from hf_effattn.training.user_data import UserRunArguments
from training_scripts import make_configs


FOLDER = Path(__file__).parents[1] / "modeling_configs"
PRESETS = {entry.name: entry for entry in hf_effattn.list_presets()}


def fields_of(config):
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


def file_of(name):
    return FOLDER / f"{name.replace('/', '-')}.json"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_config_of_its_file(name):
    config = hf_effattn.preset(*name.split("/"))
    assert fields_of(config) == fields_of(transformers.AutoConfig.from_pretrained(file_of(name)))
    assert type(config) is type(transformers.AutoConfig.for_model(config.model_type))


def test_the_files_are_current():
    files = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert files == make_configs.configs(), "run: python -m training_scripts.make_configs"
    assert files.keys() == {name.replace("/", "-") for name in PRESETS}


def test_options_replace_fields_and_leave_the_table_alone():
    config = hf_effattn.preset("convluna", "lra2024-image", hidden_dropout_prob=0.5, id2label={0: "a", 1: "b", 2: "c"})
    assert (config.hidden_dropout_prob, config.num_labels, config.num_channels) == (0.5, 3, 1)
    config.classifier_hidden_size.append(1)
    again = hf_effattn.preset("convluna", "lra2024-image")
    assert (again.hidden_dropout_prob, again.num_labels, again.classifier_hidden_size) == (0.0, 10, [512, 512])
    hf_effattn.list_presets()[0].fields["hidden_size"] = 7
    assert hf_effattn.list_presets()[0].fields["hidden_size"] == 32
    with pytest.raises(TypeError, match="has no field 'hiden_size'"):
        hf_effattn.preset("luna", "tiny", hiden_size=8)
    with pytest.raises(ValueError, match="num_attention_heads"):
        hf_effattn.preset("luna", "tiny", num_attention_heads=5)


@pytest.mark.parametrize(
    ("name", "near"),
    [("simpletrn/tiny", "simpletron/tiny"), ("luna/lra2022-txt", "luna/lra2022-text"), ("LUNA", "luna/"), ("", "/")],
)
def test_unknown_names_are_refused_with_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"there is no preset '{name}.*; the nearest are .*{near}"):
        hf_effattn.preset(*name.split("/")) if "/" in name else presets.find_preset(name)


def test_the_command_lists_every_preset():
    done = CliRunner().invoke(app, ["presets"])
    assert done.exit_code == 0
    rows = [line.split("  ") for line in done.output.splitlines()[2:]]
    assert [row[0] for row in rows] == list(PRESETS)
    assert "4 layers × 256, 4 heads, 4,001 positions" in done.output and "arXiv 2111.15588" in done.output


def test_a_family_without_an_entry_has_no_presets(monkeypatch):
    monkeypatch.setattr(presets, "FAMILIES", {"luna": presets.FAMILIES["luna"]})
    monkeypatch.setattr(presets, "AUTHORS", {})
    assert {entry.model_type for entry in hf_effattn.list_presets()} == {"luna"}
    assert all(name.startswith("luna-") for name in make_configs.configs())
    with pytest.raises(ValueError, match="there is no preset 'simpletron/tiny'"):
        hf_effattn.preset("simpletron", "tiny")


@pytest.mark.parametrize("given", [str, file_of], ids=["preset", "file"])
@pytest.mark.parametrize("name", ["simpletron/lra2022-text", "luna/tiny"])
def test_scripts_take_presets_beside_files(name, given, tmp_path, monkeypatch):
    expected = fields_of(hf_effattn.preset(*name.split("/")))
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    lra = LraArguments(task="text", model_config=str(given(name)), max_length=64)
    assert fields_of(model_config(lra, get_task("text"))) == expected | labels
    run = UserRunArguments(train_file="x.csv", model_config=str(given(name)), max_length=64)
    tokenizer = hf_effattn.byte_tokenizer(64)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    assert fields_of(config_for_tokenizer(run, tokenizer)) == expected | ids
    with pytest.raises(ValueError, match=r"lra2022-(text|listops).* is for 2 classes, and task 'listops' has 10"):
        wrong = LraArguments(task="listops", model_config=str(given("simpletron/lra2022-text")))
        model_config(wrong, get_task("listops"))


def test_scripts_name_the_nearest_preset_and_prefer_what_lies_there(tmp_path, monkeypatch):
    lra = LraArguments(task="text", model_config="simpletron/tinny", max_length=64)
    with pytest.raises(FileNotFoundError, match=r"no config file simpletron/tinny, and .*nearest are simpletron/tiny"):
        model_config(lra, get_task("text"))
    monkeypatch.chdir(tmp_path)
    hf_effattn.preset("luna", "base").save_pretrained("luna/tiny")
    lra = LraArguments(task="text", model_config="luna/tiny", max_length=64)
    assert model_config(lra, get_task("text")).hidden_size == 768
