"""To the Hub and back, with a stand-in on this machine: neither the Xet storage nor the Hub itself is tested here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from typer.testing import CliRunner

import hf_effattn
from hf_effattn.cli import app
from hf_effattn.files import read_json
from hf_effattn.hub import push
from hf_effattn.hub.checkpoint_files import EXPORT_RECORD
from tests.hub import making
from tests.hub.client import TEXTS
from tests.hub.loopback import TOKEN, LoopbackHub, Repository


CLIENT = Path(__file__).with_name("client.py")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A function that runs steps of the client in a process with an empty cache."""

    def run(hub, *steps):
        home = tmp_path_factory.mktemp("home")
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(CLIENT), json.dumps(steps)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.split("RESULTS")[1])

    return run


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Three checkpoints of one model, each with other weights; the first has files that the others have not."""
    folder = tmp_path_factory.mktemp("versions")
    with pytest.MonkeyPatch.context() as patch:
        trained = making.run("text", folder, patch)
    hf_effattn.write_card(trained / "model", trained / "results.json", repository="tester/whole")
    folders = []
    for number in range(3):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(trained / "model")
        with torch.no_grad():
            model.classifier.logits.bias += number
        tokenizer = transformers.AutoTokenizer.from_pretrained(trained / "model")
        folders.append(hf_effattn.export_checkpoint(model, tokenizer, folder / f"version-{number}"))
        shutil.copy(trained / "model/README.md", folders[-1])
    (folders[0] / "notes.md").write_text("of the first version\n")
    return SimpleNamespace(folders=folders, results=read_json(trained / "results.json"))


def outputs_of(folder, auto_class="AutoModelForSequenceClassification"):
    model = getattr(transformers, auto_class).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))[0].tolist()


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != EXPORT_RECORD}


@pytest.fixture(scope="module")
def published(client, versions, tmp_path_factory):
    """A model pushed in three ways, and what a clean process then gets from each repository."""
    folder, trained = str(versions.folders[0]), tmp_path_factory.mktemp("trained")
    with LoopbackHub() as hub:
        hub.repositories["tester/whole"] = repository = Repository(private=False)
        repository.commit("main", {**repository.files, ".gitignore": b"*.py\n"})
        pushed = client(
            hub,
            ["push_parts", {"folder": folder, "repo_id": "tester/parts"}],
            ["push", {"folder": folder, "repo_id": "tester/whole", "verified": True}],
            ["train_and_push", {"folder": folder, "output_dir": str(trained), "repo_id": "tester/trained"}],
        )
        loaded = client(
            hub,
            ["load", {"repo_id": "tester/parts"}],
            ["load", {"repo_id": "tester/whole"}],
            ["load", {"repo_id": "tester/trained", "auto_class": "AutoModel"}],
            ["scores", {"repo_id": "tester/parts"}],
            ["scores", {"repo_id": "tester/whole"}],
        )
    return SimpleNamespace(hub=hub, pushed=pushed, loaded=loaded, trained=trained)


def test_a_pushed_model_loads_anywhere_with_equal_bits(published, versions):
    expected = outputs_of(versions.folders[0])
    assert published.loaded[0] == expected, "by transformers' push_to_hub"
    assert published.loaded[1] == expected, "by ours"
    repository = published.hub.repositories["tester/whole"]
    assert published.pushed[1] == repository.head
    assert len(repository.commits) == 3, "one commit after those that made the repository"
    files = dict(repository.files)
    assert b"lfs" in files.pop(".gitattributes"), "stays"
    assert files == files_of(versions.folders[0]), "all that is in the folder, whatever the .gitignore there says"


def test_the_trainer_pushes_a_model_that_loads_anywhere(published):
    assert published.pushed[2] == published.hub.repositories["tester/trained"].head
    assert published.loaded[2] == outputs_of(published.trained, "AutoModel")
    assert "training_args.bin" in published.hub.repositories["tester/trained"].files
    with pytest.raises(ValueError, match=r"training_args\.bin: may be a pickle"):
        hf_effattn.audit_checkpoint(published.trained)


def test_the_card_on_the_hub_has_the_scores(published, versions):
    test = versions.results["test"]
    expected = [test["test_accuracy"], test["test_accuracy_low"], test["test_accuracy_high"]]
    for scores in published.loaded[3:]:
        assert list(scores.values()) == expected


@pytest.fixture(scope="module")
def history(client, versions, tmp_path_factory):
    """Pushes to one repository, some of which fail, with what a clean process gets from it, and one more push."""
    first, second, third = ({"folder": str(folder), "repo_id": "tester/model"} for folder in versions.folders)
    steps = {
        "first": first,
        "wrong": second | {"token": "hf_wrong"},
        "never": second | {"token": "hf_wrong", "repo_id": "tester/never"},
        "second": second,
        "again": second,
        "upload": third,
        "commit": third,
        "public": second | {"private": True},
        "draft": second | {"repo_id": "tester/draft", "revision": "draft", "private": True, "message": "A draft"},
    }
    exported = tmp_path_factory.mktemp("exported") / "model"
    with LoopbackHub() as hub:
        # The third upload is tried six times in vain. When it has succeeded, the third commit breaks off.
        hub.broken = {*(("put", number) for number in range(3, 9)), ("commit", 3)}
        done = client(
            hub,
            *(["push", step] for step in steps.values()),
            ["push_while_it_moves", second | {"repo_id": "tester/moving"}],
        )
        pushed = dict(zip([*steps, "moving"], done, strict=True))
        commits = dict(hub.repositories["tester/model"].commits)
        pinned = {"repo_id": "tester/model", "revision": pushed["first"]}
        loaded = client(hub, ["load", pinned], ["load", {"repo_id": "tester/model"}])
        last, _ = client(hub, ["push", third], ["export", {**pinned, "folder": str(exported)}])
    return SimpleNamespace(hub=hub, pushed=pushed, commits=commits, loaded=loaded, last=last, exported=exported)


def test_an_interrupted_push_leaves_what_was_there(history, versions):
    failed = "ConnectionError: the push to tester/model failed: "
    assert history.pushed["upload"]["error"].startswith(f"{failed}Error while uploading 'model.safetensors'")
    assert history.pushed["commit"]["error"].startswith(f"{failed}Server disconnected")
    assert list(history.commits)[1:] == [history.pushed["first"], history.pushed["second"]]
    assert history.loaded[1] == outputs_of(versions.folders[1])
    repository = history.hub.repositories["tester/model"]
    assert repository.head == history.last not in history.commits
    assert repository.files["model.safetensors"] == (versions.folders[2] / "model.safetensors").read_bytes()


def test_a_second_push_replaces_the_first_whole(history, versions):
    assert history.pushed["second"] == history.pushed["again"] != history.pushed["first"], "nothing new, no new commit"
    assert "notes.md" in history.commits[history.pushed["first"]]
    files = history.commits[history.pushed["second"]]
    assert {name: files[name] for name in files if name != ".gitattributes"} == files_of(versions.folders[1])


def test_a_pinned_revision_keeps_its_weights(history, versions):
    assert history.loaded[0] == outputs_of(versions.folders[0]) != history.loaded[1]


def test_export_takes_a_repository_at_a_revision(history, versions):
    assert outputs_of(history.exported) == history.loaded[0]
    assert not (history.exported / "notes.md").exists(), "a model, its tokenizer, and the code of the package"
    code = hf_effattn.audit_checkpoint(versions.folders[1]).code
    assert hf_effattn.audit_checkpoint(history.exported).code == code


def test_a_wrong_token_meets_a_clear_error_before_anything_is_sent(history):
    for name in ("wrong", "never"):
        error = history.pushed[name]["error"]
        assert error.startswith(f"PermissionError: {history.hub.url} does not know the token: pass another one")
    assert "tester/never" not in history.hub.repositories


def test_a_push_to_a_branch_of_a_private_repository(history):
    repository = history.hub.repositories["tester/draft"]
    assert repository.private
    assert repository.branches["draft"] == history.pushed["draft"] != repository.head
    assert repository.files.keys() == {".gitattributes"}


def test_nothing_private_is_pushed_to_a_public_repository(history):
    error = history.pushed["public"]["error"]
    assert error.startswith("ValueError: tester/model exists and is public, not private: change that in its settings")
    assert len(history.commits) == 3 and not history.hub.repositories["tester/model"].private


def test_a_branch_that_somebody_else_has_moved_is_left_alone(history):
    assert "the push to tester/moving failed: Client error '412" in history.pushed["moving"]["error"]
    assert history.hub.repositories["tester/moving"].files.keys() == {".gitattributes", "note.txt"}


def test_nothing_is_sent_of_what_is_refused(versions, tmp_path, monkeypatch):
    # No request can be made here: the tests of this process are offline.
    with monkeypatch.context() as patch, pytest.raises(PermissionError, match="no token found: pass one"):
        patch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
        hf_effattn.push_checkpoint(versions.folders[1], "tester/model")
    monkeypatch.setattr(push, "_check_token", lambda api: None)
    folder = shutil.copytree(versions.folders[1], tmp_path / "model")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: may be a pickle"):
        hf_effattn.push_checkpoint(folder, "tester/model")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"README\.md loads a tokenizer, and .* has none: save it there"):
        hf_effattn.push_checkpoint(folder, "tester/model")
    (folder / "README.md").write_text("---\n- no mapping\n---\n")
    with pytest.raises(ValueError, match="repo card metadata block should be a dict"):
        hf_effattn.push_checkpoint(folder, "tester/model")
    (folder / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(ValueError, match=r"the metadata of README\.md is not valid YAML"):
        hf_effattn.push_checkpoint(folder, "tester/model")
    (folder / "README.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no README\.md: write a model card"):
        hf_effattn.push_checkpoint(folder, "tester/model")


def test_what_changes_after_the_verification_is_not_published(client, versions, tmp_path):
    cases = [("skeleton_heads.py", "changed"), ("model.safetensors", "changed"), ("LICENSE", "removed")]
    cases += [("model.safetensors", "uploaded"), ("README.md", "uploaded")]
    steps = []
    for number, (name, when) in enumerate(cases):
        folder = shutil.copytree(versions.folders[1], tmp_path / str(number))
        (folder / "LICENSE").write_text("mine")
        options = {"folder": str(folder), "repo_id": f"tester/{number}", "name": name, "when": when}
        steps.append(["push_while_it_changes", options])
    with LoopbackHub() as hub:
        *refused, after_upload, accepted = client(hub, *steps)
        for (name, _), done in zip(cases, refused, strict=False):
            assert done["error"].startswith("ValueError: ")
            assert f"was changed after it was verified: {name}; nothing was uploaded" in done["error"]
        assert "was changed after it was verified: model.safetensors; verify it again" in after_upload["error"]
        assert hub.repositories.keys() == {"tester/3", "tester/4"}, "nothing is sent, no repository is made"
        assert hub.repositories["tester/3"].files.keys() == {".gitattributes"}
        # What is no weights was read when it was compared.
        repository = hub.repositories["tester/4"]
        assert repository.head == accepted
        assert repository.files["README.md"] == (versions.folders[1] / "README.md").read_bytes()


@pytest.mark.parametrize("name", [".env", ".netrc", "id_rsa", "notes.txt", "link.md"])
def test_what_is_hidden_linked_or_unknown_is_not_published(versions, tmp_path, monkeypatch, name):
    monkeypatch.setattr(push, "_check_token", lambda api: None)
    folder = shutil.copytree(versions.folders[1], tmp_path / "model")
    (tmp_path / "key").write_text("a key")
    (folder / name).symlink_to(tmp_path / "key") if "link" in name else (folder / name).write_text("a key")
    with pytest.raises(ValueError, match=f"must not be published .*:\n{name}: is (hidden|not a file of a ch|a link)"):
        hf_effattn.push_checkpoint(folder, "tester/model")


def test_a_checkpoint_without_code_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(push, "_check_token", lambda api: None)
    with pytest.raises(ValueError, match="has no code, which others need to load it: publish the folder that `hf-"):
        hf_effattn.push_checkpoint(Path(__file__).parents[2] / "model_cards/simpletron-reviews", "tester/model")


def test_the_command_says_how_to_load_what_it_pushed(monkeypatch):
    def pushed(folder, repo_id, **options):
        assert options.pop("also") == ["notes.txt"] and options.pop("time_limit") == 600
        assert options.pop("run_foreign_code") is True
        assert options == {"private": True, "revision": "draft", "message": None}
        return "0" * 40

    monkeypatch.setattr(push, "push_checkpoint", pushed)
    done = CliRunner().invoke(
        app,
        [
            "push",
            "model",
            "tester/model",
            "--private",
            "--revision",
            "draft",
            "--also",
            "notes.txt",
            "--run-foreign-code",
        ],
    )
    assert done.exit_code == 0
    assert f'from_pretrained("tester/model", revision="{"0" * 40}", trust_remote_code=True)' in done.stdout
