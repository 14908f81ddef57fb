"""What the page loads, and what it refuses before it starts."""

import json
import socket
import sys

import pytest
import torch
from typer.testing import CliRunner

from hf_effattn.cli import app
from hf_effattn.demo import commands, models
from hf_effattn.demo.commands import check_port
from tests.demo.making import DECODER, exported, load


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def foreign(folder):
    """Code that is not the package's, and tells that it runs."""
    with (folder / "modeling_simpletron.py").open("a") as file:
        file.write("\n\nSimpleTronForSequenceClassification.is_foreign = True\n")


#: What is wrong with a checkpoint -> what is done to one, and what is said.
REFUSED = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights in safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "is not a checkpoint: it has no config.json"),
    "no tokenizer": (lambda folder: [path.unlink() for path in folder.glob("token*")], "has no tokenizer"),
    "another model": (lambda folder: change_config(folder, model_type="bert"), "model_type='bert'; hf_effattn has"),
    "another head": (
        lambda folder: change_config(folder, architectures=["SimpleTronForMaskedLM"]),
        "is for AutoModelForMaskedLM, and the page shows text classifiers and decoders only",
    ),
    "code of others": (foreign, "modeling_simpletron.py: is not code of hf_effattn"),
    "a pickle": (lambda folder: (folder / "training_args.bin").write_bytes(b"x"), "may be a pickle"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_cannot_be_shown_is_refused_with_its_reason(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "_wait", lambda page: page.close())
    exported(tmp_path / "model")
    damage, message = REFUSED[kind]
    damage(tmp_path / "model")
    done = CliRunner().invoke(app, ["demo", str(tmp_path / "model"), "--port", str(free_port())])
    assert done.exit_code == 1 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_code_of_others_runs_when_it_is_allowed(tmp_path, caplog):
    made = exported(tmp_path / "model")
    foreign(tmp_path / "model")
    (found,) = load(tmp_path / "model", run_foreign_code=True)
    assert found.model.is_foreign
    assert "runs with all your rights" in caplog.text
    assert not hasattr(made.model, "is_foreign")
    ids = torch.ones(1, 5, dtype=torch.long)
    assert torch.equal(found.model(ids).logits, made.model(ids).logits)


def test_a_download_is_audited_though_its_cache_is_made_of_links(tmp_path, monkeypatch):
    exported(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in (tmp_path / "blobs").iterdir():
        if not path.name.startswith("."):
            (snapshot / path.name).symlink_to(path)
    asked = []
    monkeypatch.setattr(models, "find_folder", lambda source, code: asked.append((source, code)) or snapshot)
    (found,) = models.load_models(["owner/name"])
    assert (found.name, asked) == ("owner/name", [("owner/name", True)])
    foreign(tmp_path / "blobs")
    with pytest.raises(ValueError, match="is not code of hf_effattn"):
        models.load_models(["owner/name"])


def test_models_have_names_that_differ(tmp_path):
    folders = [tmp_path / name for name in ("a/model", "b/model", "other")]
    exported(folders[0])
    exported(folders[1], "luna")
    exported(folders[2], auto_class=DECODER)
    found = load(*folders, folders[0])
    assert [one.name for one in found] == [str(folders[0]), str(folders[1]), "other"]
    assert [one.task for one in found] == ["classify", "classify", "generate"]
    assert [one.has_wide_maps for one in found] == [True, False, True]


def test_without_arguments_it_is_the_shipped_checkpoint_or_said_what_to_pass(tmp_path, monkeypatch):
    (found,) = models.load_models([])
    assert (found.name, found.limit) == ("simpletron-reviews", 512)
    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"name a checkpoint to try, .* hf-effattn demo FOLDER"):
        models.load_models([])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_port_that_is_taken_is_told_before_anything_is_loaded():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = CliRunner().invoke(app, ["demo", "nowhere", "--port", str(port)])
    assert done.exit_code == 1
    assert done.stderr.startswith(
        f"failed: the page cannot use port {port} of 127.0.0.1 (Address already in use): --port "
    )
    with pytest.raises(OSError, match=r"--host nowhere\.invalid is not an address of this computer"):
        check_port("nowhere.invalid", port)
    check_port("127.0.0.1", port)


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "hf_effattn.demo.page", raising=False)
    done = CliRunner().invoke(app, ["demo"])
    assert done.exit_code == 1
    assert done.stderr == 'failed: gradio is not installed: pip install "hf_effattn[demo]"\n'
