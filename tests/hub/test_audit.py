"""What may be in a checkpoint: code by its bytes, files by name and kind, and references that stay in the folder."""

import hashlib
import json
import os
import pickle
import re
import shutil
import tracemalloc
import zipfile

import pytest
import torch
from safetensors.torch import save_file

import hf_effattn
from hf_effattn.hub import checkpoint_files
from hf_effattn.hub.audit import MODELS, own_code
from hf_effattn.hub.references import MAX_LEVELS
from tests.hub.making import export_tiny
from tests.models.variants import over_families


@pytest.fixture
def checkpoint(tmp_path):
    """A folder that passes, with one file of every kind."""
    folder = tmp_path / "model"
    (folder / "figures").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_luna.LunaModel"}}')
    for name in ("modeling_luna.py", "skeleton_heads.py"):
        shutil.copy(MODELS / name, folder)
    (folder / "README.md").write_text("Über ein Modell")
    (folder / "LICENSE").write_text("free")
    (folder / "figures/attention.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (folder / "__pycache__/skeleton_heads.pyc").write_bytes(b"\0\0")
    save_file({"weight": torch.zeros(640)}, folder / "model.safetensors")
    return folder


def test_what_a_checkpoint_brings_with_it(checkpoint):
    audit = hf_effattn.audit_checkpoint(checkpoint)
    names = ("LICENSE", "README.md", "config.json", "figures/attention.png", "skeleton_heads.py", "model.safetensors")
    assert audit.files == {
        name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in (*names, "modeling_luna.py")
    }
    assert audit.code == {name: own_code()[name] for name in ("skeleton_heads.py", "modeling_luna.py")}
    assert (audit.weights, audit.foreign) == (("model.safetensors",), ())


@over_families
def test_our_own_checkpoints_pass(family, tmp_path):
    export_tiny(family, "AutoModel", tmp_path / "model")
    audit = hf_effattn.audit_checkpoint(tmp_path / "model")
    assert f"modeling_{family.model_type}.py" in audit.code and audit.foreign == ()


# Ways in which code that nobody has read comes into a process. No list of words knows them all, so none is asked.
STRANGERS = [
    "",
    "\n",
    "import torch",
    "import numpy",
    "import os\nos.system('id')",
    "exec('1')",
    "getattr(f, '__glo' + 'bals__')",
    "vars(torch.nn)['__builtins__']['exec']('1')",
    "def f(x: __import__('os').system('id')): pass",
    "from transformers.utils.import_utils import importlib as i\ni.import_module('os')",
    "torch.zeros(1).numpy().tofile('x')",
    "def broken(:",
    "\0",
]


@pytest.mark.parametrize("line", STRANGERS)
@pytest.mark.parametrize(
    "path", ["skeleton_heads.py", "more.py", "custom_generate/generate.py", "sub/skeleton_heads.py"]
)
def test_code_that_is_not_the_packages_own_is_refused(checkpoint, path, line):
    (checkpoint / path).parent.mkdir(exist_ok=True)
    known = (MODELS / "skeleton_heads.py").read_text() if path == "skeleton_heads.py" else ""
    (checkpoint / path).write_text(known + (line or " "))
    with pytest.raises(ValueError, match=rf"{path}: is n(ot code of hf_effattn \d|either text)") as refused:
        hf_effattn.audit_checkpoint(checkpoint)
    if line != "\0":
        assert "None of this code was run. `hf-effattn export` writes the package's own" in str(refused.value)
        assert hf_effattn.audit_checkpoint(checkpoint, foreign_code=True).foreign == (path,)


def test_own_code_is_known_by_its_place_too(checkpoint):
    (checkpoint / "sub").mkdir()
    shutil.copy(MODELS / "skeleton_heads.py", checkpoint / "sub")
    shutil.copy(MODELS / "skeleton_heads.py", checkpoint / "modeling_simpletron.py")
    assert hf_effattn.audit_checkpoint(checkpoint, foreign_code=True).foreign == (
        "modeling_simpletron.py",
        "sub/skeleton_heads.py",
    )


def pickled_weights(path):
    torch.save({"weight": torch.zeros(2)}, path)


def old_pickle(path):
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def png(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")


def picture_and_zip(path):
    png(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data.pkl", pickle.dumps({}))


def cut_weights(path):
    save_file({"weight": torch.zeros(640)}, path)
    path.write_bytes(path.read_bytes()[:-1])


def huge_header(path):
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")


def text(content):
    return lambda path: path.write_text(content)


PICKLE = "may be a pickle, which runs code when it is loaded; save weights as safetensors"
UNKNOWN = r"is not a file of a checkpoint; move it out of the folder, or say that it belongs there \(--also"


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        *((name, pickled_weights, PICKLE) for name in ("pytorch_model.bin", "a.pt", "A.PKL", "sub/model.ckpt")),
        *((name, text("text"), PICKLE) for name in ("model.pt2", "tf_model.h5", "a.zip")),
        ("weights", old_pickle, UNKNOWN),
        ("model.dat", pickled_weights, UNKNOWN),
        ("library.so", lambda path: path.write_bytes(b"\x7fELF\0"), UNKNOWN),
        *((name, text("a"), UNKNOWN) for name in ("id_rsa", "secrets.json", "a.pem", "x.key")),
        *((name, text("a"), UNKNOWN) for name in ("notes.txt", "config.v5.json", "Config.json")),
        ("sub/config.json", text("{}"), UNKNOWN),
        ("requirements.txt", text("evil"), UNKNOWN),
        *((name, text("a"), "is hidden") for name in (".env", ".netrc", "sub/.env", ".gitignore")),
        ("adapter_config.json", text("{}"), "makes transformers load another model"),
        ("Adapter_Config.JSON", text("{}"), "makes transformers load another model"),
        ("figure.png", pickled_weights, "is not the picture that its name says"),
        ("figure.png", picture_and_zip, "is not the picture that its name says"),
        ("figure.png", lambda path: path.write_bytes(b"GIF8\0"), "is not the picture that its name says"),
        ("extra.safetensors", pickled_weights, "is not a whole safetensors file"),
        ("extra.safetensors", cut_weights, "is not a whole safetensors file"),
        ("extra.safetensors", huge_header, "is not a whole safetensors file"),
        ("sub/data.md", lambda path: path.write_bytes(pickle.dumps({})), "is neither text nor a picture"),
        ("LICENSE", lambda path: path.write_bytes(b"\0"), "is neither text nor a picture"),
        ("NOTICE.txt", lambda path: path.write_bytes("aü".encode()[:2]), "is neither text nor a picture"),
        ("tokenizer.json", text("{"), "is damaged"),
        ("tokenizer.json", text("[" * 10**5), f"has more than {MAX_LEVELS} levels"),
        ("tokenizer.json", text("[" * 101 + "]" * 101), f"has more than {MAX_LEVELS} levels"),
        ("tokenizer.json", text('{"a": {"b": 1, "b": 2}}'), "is damaged: 'b' is there tw"),
        ("tokenizer.json", text("9" * 5000), "is damaged"),
        ("heads.PY", text("a"), UNKNOWN),
        *((name, text("a"), "has a name that is invalid") for name in ("..\\a.md", "C:a.md", "a|b.png")),
        ("figures/Attention.png", png, r"is the same name as figures/Attention\.png on some systems"),
    ],
)  # fmt: skip
def test_files_that_must_not_travel(checkpoint, name, write, message):
    (checkpoint / "sub").mkdir()
    write(checkpoint / name)
    with pytest.raises(
        ValueError, match=rf"must not be published or run as it is:\n(?i:{re.escape(name)}): {message}"
    ):
        hf_effattn.audit_checkpoint(checkpoint)


def test_a_file_of_another_name_may_be_said_to_belong_there(checkpoint):
    (checkpoint / "notes.txt").write_text("seen by me")
    assert "notes.txt" in hf_effattn.audit_checkpoint(checkpoint, also=["notes.txt"]).files
    (checkpoint / "notes.txt").write_bytes(b"\0")
    with pytest.raises(ValueError, match=r"notes\.txt: is neither text nor a picture"):
        hf_effattn.audit_checkpoint(checkpoint, also=["notes.txt"])
    with pytest.raises(FileNotFoundError, match=r"has no node\.txt"):
        hf_effattn.audit_checkpoint(checkpoint, also=["node.txt"])
    (checkpoint / ".env").write_text("TOKEN=x")
    (checkpoint / "a.bin").write_text("x")
    with pytest.raises(ValueError, match=r"\.env: is hidden(.|\n)*a\.bin: may be a pickle"):
        hf_effattn.audit_checkpoint(checkpoint, also=["notes.txt", ".env", "a.bin"])


@pytest.mark.parametrize("target", ["secret.md", "README.md", "nowhere", "elsewhere"])
@pytest.mark.parametrize("name", ["notes.md", "more.safetensors", "custom_generate", "figures/more"])
def test_links_are_refused(checkpoint, tmp_path, name, target):
    (tmp_path / "secret.md").write_text("a key")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/generate.py").write_text("import numpy\n")
    (checkpoint / name).symlink_to(target if target == "README.md" else tmp_path / target)
    with pytest.raises(ValueError, match=f"{name}: is a link to a (file|folder); put the"):
        hf_effattn.audit_checkpoint(checkpoint)


def test_what_is_neither_file_nor_folder_is_not_opened(checkpoint):
    os.mkfifo(checkpoint / "pipe.md")
    with pytest.raises(ValueError, match=r"pipe\.md: is neither a file nor a folder"):
        hf_effattn.audit_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["\x1b[2Ja.md", "a\rb.md", "a\u202eb.md", "a\nb.md", os.fsdecode(b"a\xff.md")])
def test_names_that_a_terminal_obeys_are_refused_and_written_as_escapes(checkpoint, name):
    (checkpoint / name).write_text("a")
    with pytest.raises(ValueError, match="has a name that a terminal does not show as it is") as refused:
        hf_effattn.audit_checkpoint(checkpoint)
    assert str(refused.value).replace("\n", "").isprintable()


def test_every_offence_is_listed_with_its_file(checkpoint):
    with (checkpoint / "modeling_luna.py").open("a") as file:
        file.write("\n")
    (checkpoint / "model.bin").write_text("")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="must not be published") as refused:
        hf_effattn.audit_checkpoint(checkpoint)
    files = [line.split(": ")[0] for line in str(refused.value).splitlines()[1:-1]]
    assert files == ["config.json", "model.bin", "modeling_luna.py"]


OTHER = "takes code from another repository"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auto_map": {"AutoModel": "evil/code--modeling_luna.LunaModel"}}, f"auto_map {OTHER}"),
        ({"auto_map": {"AutoTokenizer": [None, "evil/code--t.T"]}}, f"auto_map {OTHER}"),
        ({"auto_map": "evil/code--t.T"}, f"auto_map {OTHER}"),
        ({"custom_pipelines": {"x": {"impl": "evil/code--p.P"}}}, f"custom_pipelines {OTHER}"),
        ({"auto_map": {"AutoModel": "ghost.Model"}}, r"auto_map names 'ghost\.Model', but there is no 'ghost\.py'"),
        ({"custom_pipelines": {"x": {"impl": "ghost.P"}}}, r"custom_pipelines names 'ghost\.P', but there is no"),
        ({"attn_implementation": "evil/kernel"}, f"attn_implementation {OTHER}, 'evil/kernel'"),
        ({"text_config": {"_attn_implementation": "e/k@v1"}}, f"_attn_implementation {OTHER}"),
        ({"image_processor": {"auto_map": {"AutoImageProcessor": "e/c--p.P"}}}, f"auto_map {OTHER}"),
        ({"parts": [{"custom_pipelines": {"x": {"impl": "e/c--p.P"}}}]}, f"custom_pipelines {OTHER}"),
        ({"auto_map": {"AutoModel": "../outside.Model"}}, r"auto_map names '\.\./outside\.Model', but there is no"),
        (
            {"auto_map": {"AutoModel": "skeleton_heads.torch"}},
            r"auto_map names 'skeleton_heads\.torch', which is not a class",
        ),
        (
            {"auto_map": {"AutoTokenizer": ["skeleton_heads.Path", None]}},
            r"auto_map names 'skeleton_heads\.Path', which is not a class",
        ),
        ({"configuration_files": ["config.9.json"]}, "configuration_files makes transformers read another file"),
        ({"fast_tokenizer_files": ["tokenizer.9.json"]}, "fast_tokenizer_files makes transformers read another file"),
        ({"transformers_weights": "adapter_model.bin"}, "transformers_weights makes transformers read another file"),
        ({"vocab_file": "/etc/passwd"}, "vocab_file makes transformers read another file, '/etc/passwd'"),
    ],
)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"]
)
def test_code_and_files_come_from_the_folder_alone(checkpoint, name, fields, message):
    (checkpoint / name).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        hf_effattn.audit_checkpoint(checkpoint)


def test_results_may_hold_the_config_of_a_run(checkpoint):
    fields = {"model_config": {"auto_map": {"AutoModel": "gone.Model"}}, "arguments": {"train_file": "/a"}}
    (checkpoint / "results.json").write_text(json.dumps(fields))
    assert "results.json" in hf_effattn.audit_checkpoint(checkpoint).files


@pytest.mark.parametrize(
    "shard", [".cache/w.bin", "../w.safetensors", "ghost.safetensors", "skeleton_heads.py", "/a.safetensors"]
)
@pytest.mark.parametrize("form", ["map", "list", "map of lists"])
def test_shards_are_safetensors_in_the_folder(checkpoint, shard, form):
    index = checkpoint / "model.safetensors.index.json"

    def write(name):
        forms = {"map": {"weight_map": {"weight": name}}, "list": [name], "map of lists": {"weight_map": [[name]]}}
        index.write_text(json.dumps(forms[form]))

    write("model.safetensors")
    hf_effattn.audit_checkpoint(checkpoint)
    write(shard)
    with pytest.raises(ValueError, match=f"index.json: takes weights from '{shard}', which is not a safetensors file"):
        hf_effattn.audit_checkpoint(checkpoint)


@pytest.mark.parametrize("place", [".cache", "__pycache__", "sub/.git", "sub/.cache/huggingface"])
def test_only_what_git_and_downloads_leave_is_passed_over(checkpoint, place):
    (checkpoint / place).mkdir(parents=True, exist_ok=True)
    torch.save({}, checkpoint / place / "weights")
    (checkpoint / place / "evil.py").write_text("import numpy")
    with pytest.raises(ValueError, match="must not be published") as refused:
        hf_effattn.audit_checkpoint(checkpoint)
    assert f"{place}/weights: is " in str(refused.value) and f"{place}/evil.py: is " in str(refused.value)


def test_what_git_and_downloads_leave_is_passed_over(checkpoint):
    for place in (".git/objects/pack", ".cache/huggingface/download"):
        (checkpoint / place).mkdir(parents=True)
        (checkpoint / place / "file").write_bytes(b"\0\1")
    assert not any(path.startswith(".") for path in hf_effattn.audit_checkpoint(checkpoint).files)


def test_there_must_be_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"config\.json: there are no weights in safetensors beside it"):
        hf_effattn.audit_checkpoint(checkpoint)


def test_a_folder_without_a_config_is_no_checkpoint(checkpoint):
    (checkpoint / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"is not a checkpoint: it has no config\.json"):
        hf_effattn.audit_checkpoint(checkpoint)
    shutil.rmtree(checkpoint)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        hf_effattn.audit_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])
def test_a_large_file_costs_no_memory(checkpoint, tmp_path, name):
    large, size = shutil.copytree(checkpoint, tmp_path / "large") / name, 2**25
    if name == "model.safetensors":
        header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        large.write_bytes(len(header).to_bytes(8, "little") + header)
        with large.open("ab") as file:
            file.truncate(large.stat().st_size + size)
    else:
        large.write_bytes(b"a" * size)
    hf_effattn.audit_checkpoint(checkpoint)
    tracemalloc.start()
    try:
        hf_effattn.audit_checkpoint(large.parent)
        assert tracemalloc.get_traced_memory()[1] < size // 4
    finally:
        tracemalloc.stop()


def test_a_json_file_that_no_model_has_is_not_read(checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "LARGEST_JSON", 20)
    with pytest.raises(ValueError, match=r"config\.json: is larger than .* too large for a JSON file of a model"):
        hf_effattn.audit_checkpoint(checkpoint)
