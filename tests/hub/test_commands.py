"""``hf-effattn export`` and ``verify``, and what they are made of."""

import json
import re
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import hf_effattn
from hf_effattn.cli import app
from hf_effattn.hub import verify
from hf_effattn.hub.inputs import sample_inputs
from hf_effattn.hub.loading import find_folder, head_classes, load_checkpoint
from hf_effattn.lra import get_task
from tests.hub.making import export_tiny
from tests.models.variants import FAMILIES, over_heads, tiny_model


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def without_code(folder):
    for path in folder.glob("*.py"):
        path.unlink()
    return folder


@over_heads(*hf_effattn.HEADS)
def test_every_head_takes_the_inputs_that_are_made_for_it(family, auto_class):
    images = auto_class == "AutoModelForImageClassification"
    model = tiny_model(family, auto_class, torch.float32, **{"num_channels": 3} if images else {})
    inputs = sample_inputs(model)
    assert inputs.keys() == ({"pixel_values"} if images else {"input_ids", "attention_mask"})
    logits = model(**inputs)[0]
    assert logits.isfinite().all() and not torch.equal(logits[0], logits[1])
    assert all(torch.equal(tensor, sample_inputs(model)[name]) for name, tensor in inputs.items())


@pytest.mark.parametrize("options", [{"pair_features": "concat"}, {"max_position_embeddings": 1}])
def test_inputs_of_pairs_and_of_short_models(options):
    for auto_class in ("AutoModelForSequenceClassification", "AutoModel"):
        model = tiny_model(FAMILIES[0], auto_class, torch.float32, **options)
        inputs = sample_inputs(model)
        assert ("pair_input_ids" in inputs) is ("pair_features" in options and auto_class != "AutoModel")
        assert model(**inputs)[0].isfinite().all()


def test_export_adds_todays_code_to_bare_weights(tmp_path):
    model = export_tiny(FAMILIES[1], "AutoModelForMaskedLM", tmp_path / "source", vocab_size=260)
    code = hf_effattn.audit_checkpoint(tmp_path / "source").code
    assert run("verify", without_code(tmp_path / "source")).exit_code == 1
    done = run("export", tmp_path / "source", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "holds a KernelTransformerForMaskedLM with its code" in done.stdout
    assert hf_effattn.audit_checkpoint(tmp_path / "model").code == code
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("a")["input_ids"] == [1, 101]


def test_an_image_processor_is_verified_and_exported_with_its_model(tmp_path):
    model = tiny_model(FAMILIES[0], "AutoModelForImageClassification", torch.float32, num_channels=1)
    processor = get_task("fashion_mnist").image_processor()
    hf_effattn.export_checkpoint(model, processor, tmp_path / "model")
    done = run("verify", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert run("export", tmp_path / "model", tmp_path / "again").exit_code == 0
    found = transformers.AutoImageProcessor.from_pretrained(tmp_path / "again")
    assert found.to_dict() == processor.to_dict()


def test_an_image_processor_with_code_of_its_own_is_not_exported(tmp_path):
    model = tiny_model(FAMILIES[0], "AutoModelForImageClassification", torch.float32, num_channels=1)
    hf_effattn.export_checkpoint(model, None, tmp_path / "model")
    config = {"image_processor_type": "Other", "auto_map": {"AutoImageProcessor": "other.Other"}}
    (tmp_path / "model/preprocessor_config.json").write_text(json.dumps(config))
    (tmp_path / "model/other.py").write_text("class Other: ...\n")
    done = run("export", tmp_path / "model", tmp_path / "again")
    assert done.exit_code == 1 and "refused:" in done.output, done.output
    assert not (tmp_path / "again").exists()


def test_choices_are_verified(tmp_path):
    export_tiny(FAMILIES[2], "AutoModelForMultipleChoice", tmp_path / "model", vocab_size=260)
    done = run("verify", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "AutoModelForMultipleChoice: largest difference" in done.stdout


def test_verify_shows_what_it_found(tmp_path):
    model = tiny_model(
        FAMILIES[2], "AutoModelForSequenceClassification", torch.float32, vocab_size=260, pair_features="interaction"
    )
    hf_effattn.export_checkpoint(model, hf_effattn.byte_tokenizer(80), tmp_path / "model")
    done = run("verify", tmp_path / "model")
    assert done.exit_code == 0, done.output
    for name, digest in hf_effattn.audit_checkpoint(tmp_path / "model").code.items():
        assert f"{name} " in done.stdout and digest in done.stdout
    assert f"the code of hf_effattn {version('hf_effattn')}: all of it" in done.stdout
    assert "weights: model.safetensors" in done.stdout
    difference = done.stdout.split("AutoModelForSequenceClassification: largest difference of the logits ")[1]
    assert float(difference) < 1e-4


def append(path, code):
    with path.open("a") as file:
        file.write(code)


def test_verify_compares_code_of_others_with_the_package(tmp_path):
    export_tiny(FAMILIES[5], "AutoModelForImageClassification", tmp_path / "model", vocab_size=260, num_channels=1)
    path = tmp_path / "model/skeleton_classifier.py"
    changed = path.read_text().replace("return logits", "return logits + 0.01")
    assert changed != path.read_text()
    path.write_text(changed)
    done = run("verify", tmp_path / "model", "--run-foreign-code")
    assert done.exit_code == 1
    assert "refused: the logits of" in done.stderr and "differ by 0.01" in done.stderr


def test_verify_says_which_code_is_not_the_packages_and_tries_the_tokenizer(tmp_path):
    export_tiny(FAMILIES[0], "AutoModelForMaskedLM", tmp_path / "model", vocab_size=260)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    inputs = sample_inputs(model)
    expected = model(**inputs).logits
    verify = partial(hf_effattn.verify_checkpoint, tmp_path / "model", "AutoModelForMaskedLM", inputs)
    assert verify(expected, tokenizer) < 1e-5
    with pytest.raises(ValueError, match=r"the tokenizer of .* gives other tokens in a clean process"):
        verify(expected, lambda text: {"input_ids": [1, 2]})
    with pytest.raises(
        ValueError, match=r"the logits of .* \[2, 65, 260\] in a clean process, and here .* \[65, 260\]"
    ):
        verify(expected[0])
    (tmp_path / "model/tokenizer.json").write_text("{}")
    with pytest.raises(RuntimeError, match="does not load through AutoModelForMaskedLM in a clean process"):
        verify(expected, tokenizer)
    append(tmp_path / "model/skeleton_heads.py", "\n")
    tokenizer.save_pretrained(tmp_path / "model")
    done = run("verify", tmp_path / "model", "--run-foreign-code")
    assert done.exit_code == 0 and ": all but skeleton_heads.py\n" in done.stdout, done.output


@pytest.mark.parametrize(
    "name", ["skeleton_heads.py", "modeling_simpletron.py", "custom_generate/generate.py", "evil.py"]
)
def test_verify_runs_no_code_of_others(tmp_path, name):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model", vocab_size=260)
    (tmp_path / "model/custom_generate").mkdir()
    append(tmp_path / "model" / name, f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    done = run("verify", tmp_path / "model")
    assert done.exit_code == 1
    assert f"{name}: is not code of hf_effattn {version('hf_effattn')}" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os\nos._exit(0)\n", "ends the clean process before it writes logits"),
        ("open('outputs.safetensors', 'w').write('{')\nimport os\nos._exit(0)\n", "writes damaged logits"),
        ("raise OSError('\x1b[2J')\n", r"(.|\n)*OSError: \\x1b\[2J"),
    ],
)
def test_code_of_others_cannot_feign_success(tmp_path, code, message):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model", vocab_size=260)
    append(tmp_path / "model/skeleton_heads.py", code)
    done = run("verify", tmp_path / "model", "--run-foreign-code")
    assert done.exit_code == 1
    assert re.search(rf"failed: .*{message}", done.stderr), done.stderr


def test_verify_has_an_end(tmp_path):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model", vocab_size=260)
    append(tmp_path / "model/skeleton_heads.py", "while True:\n    pass\n")
    done = run("verify", tmp_path / "model", "--run-foreign-code", "--time-limit", 1)
    assert done.exit_code == 1
    assert "does not load through AutoModel in time: it was stopped after 1 seconds" in done.stderr


def test_what_runs_is_what_was_read(tmp_path, monkeypatch):
    """Code that is changed between the audit and the clean process does not come into it."""
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model", vocab_size=260)
    load = verify.load_checkpoint

    def load_and_change(folder, family, auto_class):
        append(folder / "skeleton_heads.py", "raise SystemExit('this ran')\n")
        return load(folder, family, auto_class)

    monkeypatch.setattr(verify, "load_checkpoint", load_and_change)
    with pytest.raises(ValueError, match=r"was changed while it was verified: skeleton_heads\.py; verify it again"):
        verify.verify_folder(tmp_path / "model")


def test_verify_takes_the_shipped_checkpoint_which_has_no_code():
    done = run("verify", Path(__file__).parents[2] / "model_cards/simpletron-reviews")
    assert done.exit_code == 0, done.output
    assert (
        f"the checkpoint has no code: it loads only where hf_effattn {version('hf_effattn')} is installed"
        in done.stdout
    )
    assert "AutoModelForSequenceClassification: largest difference of the logits" in done.stdout


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "bert"}, r"has model_type='bert'; hf_effattn has \['simpletron'"),
        ({"architectures": None}, r"has architectures=\[\]; it must name some of \['SimpleTronModel'"),
        ({"architectures": ["LunaModel"]}, r"has architectures=\['LunaModel'\]"),
        ({"architectures": ["SimpleTronForMaskedLM"]}, r"are not those of SimpleTronForMaskedLM: .*'head\."),
        ({"vocab_size": 10**9}, "describes [0-9,]* numbers, but the weights have [0-9,]*"),
        (
            {"num_hidden_layers": 10**9},
            r"config\.json has num_hidden_layers=1000000000, but there are only \d+ weights",
        ),
        ({"vocab_size": 300}, r"mismatched_keys.*embeddings\.tokens\.weight.*260.*300"),
        ({"model_type": ["luna"]}, r"has model_type=\['luna'\]"),
        ({"architectures": {"a": 1}}, r"has architectures=\{'a': 1\}"),
        ({"hidden_size": 25}, r"config\.json is not a config of SimpleTron: (.|\n)*must be a multiple"),
        ({"hiden_size": 24}, "is not a config of SimpleTron: .*did you mean 'hidden_size'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, fields, message):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model", vocab_size=260)
    change_config(tmp_path / "model", **fields)
    done = run("export", tmp_path / "model", tmp_path / "out")
    assert done.exit_code == 1
    assert re.search(message, done.stderr), done.stderr


def test_what_is_loaded_is_safe_and_whole(tmp_path):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    family, [auto_class] = head_classes(tmp_path / "model")
    with pytest.raises(ValueError, match=r"the tokenizer in .* has 260 tokens, but the model's vocab_size is 64"):
        load_checkpoint(tmp_path / "model", family, auto_class)
    weights = load_file(tmp_path / "model/model.safetensors")
    (tmp_path / "model/model.safetensors").unlink()
    torch.save(weights, tmp_path / "model/pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / "model", family, auto_class)
    weights.pop("norm.weight")
    save_file(weights, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"are not those of SimpleTronModel: .*missing_keys.*norm\.weight"):
        load_checkpoint(tmp_path / "model", family, auto_class)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nowhere", "out"], "there is no folder nowhere here, and no repository was found"),
        (["export", "a/b/c", "out"], "there is no folder a/b/c, and the name of a repository is owner/name"),
        (["export", "./a", "out"], "there is no folder ./a, and"),
        (["export", "/a/\x1b[2J", "out"], r"there is no folder /a/\x1b[2J, and"),
        (["export", "file", "out"], "file is a file: name the folder of a checkpoint"),
        (["verify", "nowhere"], "there is no folder nowhere"),
        (["verify", "file"], "there is no folder file"),
        (["card", "nowhere", "--results", "nothing"], "there is no folder nowhere"),
        (["push", "nowhere", "me/mine"], "there is no folder nowhere"),
        (["verify", "empty"], "empty is not a checkpoint: it has no config.json"),
        (["verify", "deep"], "config.json: has more than 100 levels"),
        (["export", "deep", "out"], "config.json has more than 100 levels"),
        (["export", "list", "out"], "config.json is not a config: it is not a JSON object"),
    ],
)
def test_what_is_not_there_or_no_checkpoint_is_a_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    for name, content in (("empty", None), ("deep", "[" * 10**5), ("list", "[]")):
        Path(name).mkdir()
        if content is not None:
            Path(name, "config.json").write_text(content)
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr and done.stderr.startswith(("failed: ", "refused: ")), done.stderr
    assert "Traceback" not in done.output and not Path("out").exists()


def test_an_error_of_any_kind_is_a_sentence(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("x")

    monkeypatch.setattr(verify, "verify_folder", fail)
    done = run("verify", tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith("failed: KeyError: 'x'; `python -X dev -m hf_effattn ")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cpu:x", "mps"])
def test_the_doctor_says_that_there_is_no_such_device(device):
    done = run("doctor", "--device", device)
    assert done.exit_code == 2
    assert "Invalid value for --device" in done.stderr and f"there is no device '{device}' here" in done.stderr


def test_the_package_is_a_command_and_has_a_version():
    done = subprocess.run(
        [sys.executable, "-m", "hf_effattn", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"hf_effattn {version('hf_effattn')}\n"
    assert run("--version").stdout == done.stdout


def test_sources_that_are_refused(tmp_path):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model", vocab_size=260)
    with pytest.raises(ValueError, match="is a folder, which has no revision 'main'"):
        find_folder(tmp_path / "model", "main")
    change_config(tmp_path / "model", architectures=["SimpleTronModel", "SimpleTronForMaskedLM"])
    done = run("export", tmp_path / "model", tmp_path / "out")
    assert done.exit_code == 1
    assert "records 2 heads" in done.stderr
    (tmp_path / "model/config.json").unlink()
    done = run("export", tmp_path / "model", tmp_path / "out")
    assert done.exit_code == 1
    assert "is not a checkpoint: it has no config.json" in done.stderr
    assert not (tmp_path / "out").exists()
