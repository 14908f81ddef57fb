import hashlib
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file

import hf_effattn
from hf_effattn.hub.code_audit import read_code
from tests.hub.making import export_tiny
from tests.models.variants import FAMILIES, over_families


@pytest.fixture
def checkpoint(tmp_path):
    """A folder that passes, with one file of every kind."""
    folder = tmp_path / "model"
    (folder / "figures").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Model"}}')
    (folder / "modeling.py").write_text("import torch\nfrom .heads import Head\n")
    (folder / "heads.py").write_text(
        "import math, torch.nn\ntry:\n    import triton\nexcept ImportError:\n    pass\nclass Head: pass\n"
    )
    (folder / "README.md").write_text("Über ein Modell")
    (folder / "figures/attention.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (folder / "__pycache__/heads.pyc").write_bytes(b"\0\0")
    save_file({"weight": torch.zeros(640)}, folder / "model.safetensors")
    return folder


def test_what_a_checkpoint_brings_with_it(checkpoint):
    audit = hf_effattn.audit_checkpoint(checkpoint)
    assert audit.code == {
        name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in ("heads.py", "modeling.py")
    }
    assert audit.imports == {
        "math": ("heads.py:1",),
        "torch": ("heads.py:1", "modeling.py:1"),
        "triton": ("heads.py:3",),
    }
    assert audit.weights == ("model.safetensors",)


@over_families
def test_our_own_checkpoints_pass(family, tmp_path):
    export_tiny(family, "AutoModel", tmp_path / "model")
    audit = hf_effattn.audit_checkpoint(tmp_path / "model")
    assert f"modeling_{family.model_type}.py" in audit.code
    assert {"torch", "transformers"} <= audit.imports.keys()


def pickled_weights(path):
    torch.save({"weight": torch.zeros(2)}, path)


def old_pickle(path):
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("pytorch_model.bin", pickled_weights, "is a zip file with a pickle, which runs code when it is loaded"),
        ("model.dat", pickled_weights, "is a zip file with a pickle"),
        ("figure.png", pickled_weights, "is a zip file with a pickle"),
        ("weights", old_pickle, "is a pickle, which runs code"),
        ("sub/data.json", lambda path: path.write_bytes(pickle.dumps({})), "is a pickle, which runs code"),
        ("model.pt", lambda path: path.write_text("text"), "has the name of weights that are not safetensors"),
        ("tf_model.h5", lambda path: path.write_bytes(b"\x89HDF\0"), "has the name of weights"),
        ("extra.safetensors", pickled_weights, "is not a whole safetensors file"),
        ("library.so", lambda path: path.write_bytes(b"\x7fELF\0"), "is neither text nor a picture nor safetensors"),
        ("figure.png", lambda path: path.write_bytes(b"GIF8\0"), "is neither text nor a picture"),
        ("broken.json", lambda path: path.write_text("{"), "is damaged"),
    ],
)
def test_files_that_must_not_travel(checkpoint, name, write, message):
    (checkpoint / "sub").mkdir()
    write(checkpoint / name)
    with pytest.raises(ValueError, match=f"must not be published or run as it is:\n{name}: {message}"):
        hf_effattn.audit_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import numpy", "imports numpy; allowed are torch, transformers"),
        ("from os import path; import scipy.linalg", "imports scipy; allowed are"),
        ("def later():\n    import requests", "imports requests"),
        ("import triton", "imports triton, which may be missing, outside of a try"),
        ("try:\n    pass\nexcept ImportError:\n    import kernels", "imports kernels, which may be missing"),
        ("try:\n    import kernels\nexcept ValueError:\n    pass", "imports kernels, which may be missing"),
        ("try:\n    import numpy\nexcept ImportError:\n    pass", "imports numpy; allowed are"),
        ("import heads", "imports heads; allowed are"),
        ("import importlib", "imports importlib; allowed of the standard library are __future__, abc"),
        ("from importlib.metadata import version", "imports importlib; allowed of the standard library"),
        ("import pickle as p", "imports pickle; allowed of the standard library"),
        ("import _pickle", "imports _pickle; allowed of the standard library"),
        ("import cProfile", "imports cProfile; allowed of the standard library"),
        ("import sys", "imports sys; allowed of the standard library"),
        ("import os\nos.system('ls')", "uses os.system: it is not among the parts of os"),
        ("from os import execv", "imports os.execv: it is not among the parts of os"),
        ("import os\nos.__builtins__['exec']('1')", "uses os.__builtins__: it is not among the parts of os"),
        ("import json\njson.__builtins__['exec']('1')", "uses json.__builtins__: it is not a public part"),
        ("import os\nos.path.os.system('ls')", "uses os.path.os.system: it leads to os"),
        ("import warnings\nwarnings.sys.modules['numpy']", "uses warnings.sys.modules: it is not a public part"),
        ("print(().__class__.__base__.__subclasses__())", r"uses \?.__class__.__base__.__subclasses__: it leads to"),
        ("from typing import sys", "imports typing.sys: it is not a public part of typing"),
        ("from torch import *", "imports all of torch; name what it needs"),
        ("import torch as t\nt.load('x.txt', weights_only=False)", "uses torch.load: it runs what a pickle says"),
        ("import torch as t\nt.hub.load('a', 'b')", "uses torch.hub.load: it downloads code"),
        ("import torch\nt = torch\nt.load('x')", "hands on the module torch; name what it takes from there"),
        ("import torch\ngetattr(torch, 'lo' + 'ad')('x')", "hands on the module torch"),
        ("from torch import serialization\nserialization.load('x')", "imports torch.serialization: it runs what"),
        ("import torch.utils.cpp_extension", "imports torch.utils.cpp_extension: it compiles code"),
        ("from torch import utils\nutils.cpp_extension.load_inline('x')", "uses torch.utils.cpp_extension"),
        ("import torch\ntorch.ops.load_library('x.txt')", "uses torch.ops.load_library: it leads to load_library"),
        ("from transformers.utils.import_utils import importlib", "imports transformers.utils.import_utils.importlib"),
        (
            "from huggingface_hub import snapshot_download",
            "imports huggingface_hub.snapshot_download: it",
        ),
        (
            "try:\n    from kernels import get_kernel\nexcept ImportError:\n    pass",
            "imports kernels.get_kernel: it is",
        ),
        ("AutoModel.from_pretrained('evil/x', trust_remote_code=True)", "sets trust_remote_code, which runs code"),
        ("AutoModel.from_pretrained('evil/x', **{'trust_remote_code': 1})", "sets trust_remote_code, which runs code"),
        ("print(globals()['__loader__'])", "uses globals: it reaches files, or code"),
        ("from torch import hub", "imports torch.hub: it downloads code"),
        ("import torch\ntorch.hub.load('a', 'b')", "uses torch.hub: it downloads code"),
        ("import torch\nload = torch.load", "uses torch.load: it runs what a pickle says"),
        ("module = __import__('os')", "uses __import__: it reaches"),
        ("run = exec", "uses exec: it reaches"),
        ("print(eval('1'))", "uses eval: it reaches"),
        ("compile('1', '', 'eval')", "uses compile: it reaches"),
        (
            "import torch\ntorch.nn.functional.torch.load('x')",
            "uses torch.nn.functional.torch.load: it leads to torch",
        ),
        ("from transformers.modeling_utils import torch as t", "imports transformers.modeling_utils.torch: it leads"),
        (
            "import torch\ntorch._inductor.codecache.PyCodeCache",
            "uses torch._inductor.*: it is not a public part of torch",
        ),
        ("import torch\ntorch.utils.collect_env.run('id')", "uses torch.utils.collect_env.run: it runs commands"),
        ("from torch.fx import graph_module", "imports torch.fx.graph_module: it makes code of text"),
        ("from torch.utils.benchmark import Timer", "imports torch.utils.benchmark.Timer: it makes code of text"),
        ("from torch.distributed.run import main", "imports torch.distributed.run.main: it starts programs"),
        ("import torch\ntorch.storage._load_from_bytes(b'')", "uses torch.storage._load_from_bytes: it runs what a"),
        ("from transformers.pipelines import pipeline", "imports transformers.pipelines.pipeline: it may download"),
        (
            "from transformers.testing_utils import run_command",
            "imports transformers.testing_utils.run_command: it runs",
        ),
        ("from collections import _sys", "imports collections._sys: it is not a public part of collections"),
        ("from enum import bltns", "imports enum.bltns: it is not a public part of enum"),
        ("import string\nstring.Formatter()", "uses string.Formatter: it looks up what a text names"),
        ("import typing\ntyping.get_type_hints(f)", "uses typing.get_type_hints: it makes code of text"),
        ("getattr(f, '__globals__')", "names __globals__: it leads out"),
        ("getattr(f, '__glo' + 'bals__')", "asks getattr for a name that is put together"),
        ("vars(torch.nn)['__builtins__']", "names __builtins__: it leads out"),
        (
            "try:\n    1 / 0\nexcept ArithmeticError as e:\n    e.__traceback__.tb_frame",
            "uses e.__traceback__.*: it leads to",
        ),
        ("match f:\n    case object(__globals__=g):\n        pass", "asks for __globals__"),
        ("print.__self__.exec('1')", "uses print.__self__.exec: it leads to __self__"),
        ("breakpoint()", "uses breakpoint: it reaches files, or code"),
        ("open('file', 'w')", "uses open: it reaches files"),
        ("from .heads import torch as t", "imports torch of .heads, which only imports it itself"),
        ("from .ghost import thing", "imports .ghost, which the folder does not have"),
        ("from . import heads", "is a relative import that transformers does not follow"),
        ("from ..heads import Head", "is a relative import that transformers does not follow"),
        ("def broken(:", "is not Python"),
    ],
)
def test_code_that_must_not_travel(checkpoint, line, message):
    (checkpoint / "modeling.py").write_text(f"import torch\n\n{line}\n")
    with pytest.raises(ValueError, match=rf"modeling\.py:\d+: {message}"):
        hf_effattn.audit_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "line",
    [
        "from __future__ import annotations",
        "import re\nre.compile('a')",
        "import os\nprint(os.environ.get('A'), os.path.join('a', 'b'))",
        "import torch.nn.functional as F\nF.relu(x)",
        "from collections.abc import Mapping\nfrom enum import Enum\nimport math\nmath.sqrt(2)",
        "name = 'open'\ngetattr(config, name), getattr(config, f'{name}_size'), getattr(config, 'eval')",
        "from transformers import GenerationConfig\nGenerationConfig._get_default_generation_params()",
        "from torch import nn\nmodules = vars(nn.Module())",
        "model.eval()\nself.exec = 1",
        "try:\n    from kernels import use_kernel_forward_from_hub\nexcept (ImportError, ValueError):\n    pass",
        "def later():\n    from .heads import Head",
        '"""from .ghost import thing"""',
    ],
)
def test_code_that_may_travel(line):
    assert read_code(line.encode(), {"heads": {"Head"}}).offences == []


def test_every_offence_is_listed_with_its_place(checkpoint):
    (checkpoint / "modeling.py").write_text("import torch\nimport numpy\n\n\nexec('1')\n")
    (checkpoint / "heads.py").unlink()
    (checkpoint / "model.bin").write_text("")
    with pytest.raises(ValueError, match="must not be published") as refused:
        hf_effattn.audit_checkpoint(checkpoint)
    places = [line.split(": ")[0] for line in str(refused.value).splitlines()[1:]]
    assert places == ["modeling.py:2", "modeling.py:5", "model.bin"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"auto_map": {"AutoModel": "evil/code--modeling.Model"}}, "auto_map takes code from another repository"),
        ({"auto_map": {"AutoTokenizer": [None, "evil/code--t.T"]}}, "auto_map takes code from another repository"),
        ({"custom_pipelines": {"x": {"impl": "evil/code--p.P"}}}, "custom_pipelines takes code from another"),
        ({"auto_map": {"AutoModel": "ghost.Model"}}, r"auto_map names ghost\.Model, but there is no ghost\.py"),
        (
            {"custom_pipelines": {"x": {"impl": "ghost.P"}}},
            r"custom_pipelines names ghost\.P, but there is no ghost\.py",
        ),
        (
            {"attn_implementation": "evil/kernel"},
            "attn_implementation takes code from another repository, evil/kernel",
        ),
        ({"text_config": {"_attn_implementation": "e/k@v1"}}, "_attn_implementation takes code from another"),
        ({"image_processor": {"auto_map": {"AutoImageProcessor": "e/c--p.P"}}}, "auto_map takes code from another"),
        ({"parts": [{"custom_pipelines": {"x": {"impl": "e/c--p.P"}}}]}, "custom_pipelines takes code from another"),
        ({"auto_map": {"AutoModel": "../outside.Model"}}, r"auto_map names \.\./outside\.Model, but there is no \.py"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_comes_from_the_folder_alone(checkpoint, name, fields, message):
    (checkpoint / name).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        hf_effattn.audit_checkpoint(checkpoint)


@pytest.mark.parametrize("shard", [".cache/w.bin", "../w.safetensors", "ghost.safetensors", "heads.py"])
def test_shards_are_safetensors_in_the_folder(checkpoint, shard):
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"weight": "model.safetensors"}}))
    hf_effattn.audit_checkpoint(checkpoint)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"weight": shard}}))
    with pytest.raises(ValueError, match=f"index.json: takes weights from {shard}, which is no safetensors file"):
        hf_effattn.audit_checkpoint(checkpoint)


@pytest.mark.parametrize("place", [".cache", "__pycache__", "sub/.git", "sub/.cache/huggingface"])
def test_only_what_git_and_downloads_leave_is_passed_over(checkpoint, place):
    (checkpoint / place).mkdir(parents=True, exist_ok=True)
    torch.save({}, checkpoint / place / "weights")
    (checkpoint / place / "evil.py").write_text("import numpy")
    with pytest.raises(ValueError, match="must not be published") as refused:
        hf_effattn.audit_checkpoint(checkpoint)
    assert f"{place}/weights: is a zip" in str(refused.value) and f"{place}/evil.py:1" in str(refused.value)


def test_what_git_and_downloads_leave_is_passed_over(checkpoint):
    for place in (".git/objects/pack", ".cache/huggingface/download"):
        (checkpoint / place).mkdir(parents=True)
        (checkpoint / place / "file").write_bytes(b"\0\1")
    hf_effattn.audit_checkpoint(checkpoint)


def test_there_must_be_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"config\.json: there are no weights in safetensors beside it"):
        hf_effattn.audit_checkpoint(checkpoint)


def test_a_folder_without_a_config_is_no_checkpoint(checkpoint):
    (checkpoint / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"is no checkpoint: it has no config\.json"):
        hf_effattn.audit_checkpoint(checkpoint)
    shutil.rmtree(checkpoint)
    with pytest.raises(FileNotFoundError, match="is no checkpoint"):
        hf_effattn.audit_checkpoint(checkpoint)


def test_the_audit_runs_nothing(tmp_path):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    trap = tmp_path / "ran"
    (tmp_path / "model/trap.py").write_text(f"import torch\ntorch.save({{}}, {str(trap)!r})\n")
    hf_effattn.audit_checkpoint(tmp_path / "model")
    assert not trap.exists()


def test_code_that_is_not_the_packages_own_is_named(tmp_path):
    export_tiny(FAMILIES[0], "AutoModel", tmp_path / "model")
    assert hf_effattn.audit_checkpoint(tmp_path / "model").foreign == ()
    (tmp_path / "model/more.py").write_text("import torch\n")
    with (tmp_path / "model/heads.py").open("a") as file:
        file.write("\n")
    assert hf_effattn.audit_checkpoint(tmp_path / "model").foreign == ("heads.py", "more.py")


def test_a_link_to_a_folder_is_refused(checkpoint, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/generate.py").write_text("import numpy\n")
    (checkpoint / "custom_generate").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="custom_generate: is a link to a folder; put the files there"):
        hf_effattn.audit_checkpoint(checkpoint)


def test_an_adapter_would_bring_the_code_of_its_base_model(checkpoint):
    (checkpoint / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/code"}')
    with pytest.raises(ValueError, match=r"adapter_config\.json: has transformers load the model that it names"):
        hf_effattn.audit_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [["w.bin"], {"weight_map": ["w.bin"]}])
def test_an_index_of_another_form_names_no_other_weights(checkpoint, content):
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index\.json: takes weights from w\.bin, which is no safetensors file"):
        hf_effattn.audit_checkpoint(checkpoint)
