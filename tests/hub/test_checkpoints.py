"""Checkpoints: equal after loading, through every Auto class, here and in a clean process without us."""

import ast
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import SafetensorError

import hf_effattn
from hf_effattn.hub import export, staging
from tests.hub.making import export_tiny
from tests.models.variants import FAMILIES, over_families, over_heads, padded, random_ids, tiny_model


IDS, MASK = padded([random_ids(1, 11)[0], random_ids(1, 6)[0]], "right")
INPUTS = {"input_ids": IDS, "attention_mask": MASK}


@pytest.mark.compat
@over_heads("AutoModelForMaskedLM", "AutoModelForCausalLM")
def test_save_and_load_are_exact_and_every_auto_class_loads(family, auto_class, tmp_path):
    model = export_tiny(family, auto_class, tmp_path / "model")
    loaded = getattr(transformers, auto_class).from_pretrained(tmp_path / "model")
    assert type(loaded) is type(model), "the installed class is preferred to the checkpoint's code"
    assert torch.equal(loaded(**INPUTS).logits, model(**INPUTS).logits)
    base = transformers.AutoModel.from_pretrained(tmp_path / "model")
    assert torch.equal(base(**INPUTS).last_hidden_state, model.model(**INPUTS).last_hidden_state)
    for other, name in family.class_names.items():
        if other != "AutoModelForImageClassification":
            assert type(getattr(transformers, other).from_pretrained(tmp_path / "model")).__name__ == name


HEAD_OPTIONS = {
    "AutoModelForSequenceClassification": {"num_labels": 3},
    "AutoModelForCausalLM": {},
    "AutoModelForImageClassification": {"num_channels": 1},
}


@over_heads(*HEAD_OPTIONS)
def test_checkpoint_loads_in_a_clean_offline_process(family, auto_class, tmp_path):
    options = HEAD_OPTIONS[auto_class]
    model = export_tiny(family, auto_class, tmp_path / "model", **options)
    inputs = {"pixel_values": torch.rand(2, 1, 4, 4)} if "num_channels" in options else INPUTS
    difference = hf_effattn.verify_checkpoint(tmp_path / "model", auto_class, inputs, model(**inputs).logits)
    assert difference < 1e-5, "not zero only because the other process may use more threads"


@over_families
def test_verify_notices_what_is_wrong(family, tmp_path):
    auto_class = "AutoModelForSequenceClassification"
    model = export_tiny(family, auto_class, tmp_path / "model")
    with pytest.raises(ValueError, match=r"the logits of .* differ by"):
        hf_effattn.verify_checkpoint(tmp_path / "model", auto_class, INPUTS, model(**INPUTS).logits + 1e-3)
    (tmp_path / "model" / "base_operators.py").unlink()
    with pytest.raises(RuntimeError, match="does not load through AutoModelForSequenceClassification"):
        hf_effattn.verify_checkpoint(tmp_path / "model", auto_class, INPUTS, model(**INPUTS).logits)


def test_the_code_of_a_checkpoint_is_told_no_token(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    model = export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    code = tmp_path / "model" / f"modeling_{FAMILIES[0].model_type}.py"
    told = (
        "import os\n\nif 'HF_TOKEN' in os.environ or os.path.expanduser('~') == '{home}':\n    raise OSError('told')\n"
    )
    code.write_text(code.read_text() + told.format(home=Path.home()))
    arguments = (tmp_path / "model", "AutoModel", INPUTS, model(**INPUTS)[0])
    with pytest.raises(ValueError, match=r"modeling_simpletron\.py: is not code of hf_effattn"):
        hf_effattn.verify_checkpoint(*arguments)
    hf_effattn.verify_checkpoint(*arguments, run_foreign_code=True)


SECOND_GENERATION = """
import sys
sys.modules["hf_effattn"] = None
import torch, transformers
model = transformers.AutoModelForMaskedLM.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
with torch.no_grad():
    model.lm_head.bias += 1
model.save_pretrained(sys.argv[2])
"""


@pytest.mark.compat
@over_families
def test_a_remotely_loaded_model_saves_a_checkpoint_of_its_own(family, tmp_path):
    model = export_tiny(family, "AutoModelForMaskedLM", tmp_path / "first")
    command = [sys.executable, "-c", SECOND_GENERATION, str(tmp_path / "first"), str(tmp_path / "second")]
    subprocess.run(command, check=True, cwd=tmp_path)
    shutil.rmtree(tmp_path / "first")
    expected = model(**INPUTS).logits + 1
    hf_effattn.verify_checkpoint(tmp_path / "second", "AutoModelForMaskedLM", INPUTS, expected)
    assert all(
        "--" not in entry for entry in json.loads((tmp_path / "second/config.json").read_text())["auto_map"].values()
    )


#: What is there wherever a model is loaded, since transformers needs it, beside the standard library.
PRESENT = {"torch", "transformers", "huggingface_hub", "packaging", *sys.stdlib_module_names}

#: Files that may ask for a package which makes something faster where it is installed.
ASKING = {"backend_cpu.py": {"hf_effattn"}, "layer_kernelize.py": {"kernels"}}
ASKING |= {"backend_triton.py": {"triton"}, "triton_kernels.py": {"triton"}}


def names_made_by(tree):
    """The names that a file makes itself, and does not import."""
    made = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return made | {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def guarded(tree):
    """Everything inside a ``try`` that catches ImportError."""
    for node in ast.walk(tree):
        caught = (
            [ast.unparse(handler.type) for handler in node.handlers if handler.type]
            if isinstance(node, ast.Try)
            else []
        )
        if any("ImportError" in name for name in caught):
            yield from (inner for statement in node.body for inner in ast.walk(statement))


def test_the_travelling_room_imports_nothing_from_outside():
    room = Path(hf_effattn.__file__).parent / "models"
    trees = {path.stem: ast.parse(path.read_bytes()) for path in room.glob("*.py")}
    for stem, tree in trees.items():
        asked, inside_try = set(), set(guarded(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in trees, (
                    f"{stem}:{node.lineno}: write `from .name import thing`"
                )
                # transformers takes along the files that are named, and a name is to tell where a thing comes from.
                assert {alias.name for alias in node.names} <= names_made_by(trees[node.module]), (
                    f"{stem}:{node.lineno}"
                )
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                missing = {module.split(".")[0] for module in modules} - PRESENT
                assert not missing or node in inside_try, f"{stem}:{node.lineno}: {missing} may not be there"
                asked |= missing
        assert asked == ASKING.get(f"{stem}.py", set()), stem
    guide = (room.parents[1] / "CONTRIBUTING.md").read_text()
    assert all(f"`{name}`" in guide for name in ASKING)
    assert [path for path in room.iterdir() if path.is_dir() and path.name != "__pycache__"] == []


@over_families
def test_a_failed_export_leaves_the_earlier_checkpoint(family, tmp_path, monkeypatch):
    model = export_tiny(family, "AutoModel", tmp_path / "model")
    tokenizer = hf_effattn.byte_tokenizer(80)

    def full_disk(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with torch.no_grad():
        model.layers[0].mlp.down.bias += 1
    for step in ("fsync_tree", "_move_into_place"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(export, step, lambda *folders: full_disk(folders))
            hf_effattn.export_checkpoint(model, tokenizer, tmp_path / "model")
        earlier = transformers.AutoModel.from_pretrained(tmp_path / "model")
        assert not torch.equal(earlier.layers[0].mlp.down.bias, model.layers[0].mlp.down.bias)
        assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing half-written stays"
    hf_effattn.export_checkpoint(model, tokenizer, tmp_path / "model")
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.layers[0].mlp.down.bias, model.layers[0].mlp.down.bias)


def test_what_a_killed_export_has_left_is_removed_by_the_next_one(tmp_path):
    code = """
import os, signal, sys, hf_effattn
from hf_effattn.hub import export, staging

export.fsync_tree = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
config = hf_effattn.SimpleTronConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
hf_effattn.export_checkpoint(hf_effattn.SimpleTronModel(config), None, sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model"], check=False, capture_output=True)
    (left,) = tmp_path.iterdir()
    assert done.returncode == -signal.SIGKILL and (left / "model.safetensors").is_file()
    # Nobody else's: of another folder, of the user, and the earlier checkpoint that a kill may leave aside.
    others = [f".other{left.name.removeprefix('.model')}", ".model-backup01", ".model-old-abcdefgh"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / f".model-aaaaaaaa{staging.LOCKED}").symlink_to(tmp_path / ".model-backup01")
    with staging.staging_folder(tmp_path / "model") as written:
        export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
        assert not left.exists() and written.is_dir(), "another export is at work on that one"
    kept = {*others, f".model-aaaaaaaa{staging.LOCKED}", "model"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_where_folders_cannot_be_locked_exports_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "fcntl", None)
    with staging.staging_folder(tmp_path / "model") as written:
        export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
        assert written.is_dir() and not written.name.endswith(staging.LOCKED)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("interrupt", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", [1, 2])
def test_an_export_that_breaks_off_in_its_last_step_is_undone(failing, interrupt, tmp_path, monkeypatch):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    earlier = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    calls, rename = [], os.rename

    def break_off(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise interrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", break_off)
    with pytest.raises(type(interrupt)):
        export_tiny(FAMILIES[1], "AutoModel", tmp_path / "model")
    assert len(calls) == failing + (failing == 2), "the first one is undone by a third"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == earlier


@pytest.mark.parametrize(
    "name", [".git/config", "train.sh", "train.py", "README.md", "notes.txt", "figures/loss.png", "optimizer.pt"]
)
def test_export_replaces_nothing_but_a_checkpoint(name, tmp_path):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    path = tmp_path / "model" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=rf"holds more than a checkpoint, \['{name.split('/')[0]}'\]; remove"):
        export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    assert path.read_text() == "precious"


def test_export_replaces_no_model_that_no_export_has_written(tmp_path):
    trained = tiny_model(FAMILIES[1], "AutoModel", torch.float32)
    trained.save_pretrained(tmp_path / "model")
    before = (tmp_path / "model/model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="holds a checkpoint that no export has written; choose another folder"):
        export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    assert (tmp_path / "model/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("change", ["trained on", "edited", "linked"])
def test_export_replaces_nothing_that_was_changed_since_the_earlier_one(change, tmp_path):
    model = export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    changed = tmp_path / "model" / ("model.safetensors" if change == "trained on" else "config.json")
    if change == "trained on":
        with torch.no_grad():
            model.norm.weight += 1
        model.save_pretrained(tmp_path / "model")
    else:
        changed.write_text(changed.read_text() + "\n")
    if change == "linked":
        shutil.move(changed, tmp_path / "config.json")
        changed.symlink_to(tmp_path / "config.json")
    before = changed.read_bytes()
    with pytest.raises(FileExistsError, match=rf"were changed after their export, \['{changed.name}'\]; choose"):
        export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    assert changed.read_bytes() == before


def test_export_touches_no_folder_that_holds_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="holds something that is not a checkpoint"):
        export_tiny(FAMILIES[0], "AutoModel", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "garbled config"])
def test_a_damaged_checkpoint_meets_an_error(damage, tmp_path):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    weights, config = tmp_path / "model/model.safetensors", tmp_path / "model/config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        weights.unlink()
    else:
        config.write_text(config.read_text()[:-20])
    with pytest.raises((OSError, SafetensorError), match=r"(?i)incomplete|no file named|not a valid json"):
        transformers.AutoModel.from_pretrained(tmp_path / "model")


PIPELINES = """
import sys
sys.modules["hf_effattn"] = None
from transformers import pipeline
for task, text in (("text-classification", "fine"), ("fill-mask", "f[MASK]ne"), ("text-generation", "Once")):
    if task not in sys.argv[2:]:
        continue
    options = {"max_new_tokens": 5} if task == "text-generation" else {}
    loaded = pipeline(task, model=f"{sys.argv[1]}/{task}", trust_remote_code=True)
    print("RESULT", loaded([text, text], batch_size=2, **options)[0])
"""


@over_families
def test_pipelines_run_on_saved_checkpoints(family, tmp_path):
    tasks = {"text-classification": "AutoModelForSequenceClassification", "fill-mask": "AutoModelForMaskedLM"}
    tasks |= {"text-generation": "AutoModelForCausalLM"} if family.causal else {}
    for task, auto_class in tasks.items():
        export_tiny(family, auto_class, tmp_path / task, vocab_size=260)
    done = subprocess.run(
        [sys.executable, "-c", PIPELINES, str(tmp_path), *tasks], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = done.stdout.split("RESULT")[1:]
    answers = ("LABEL_", "token_str", "generated_text")[: len(tasks)]
    for result, answer in zip(results, answers, strict=True):
        assert answer in result
