"""Building the kernels: once, whole or not at all, and with a reason where it cannot be done."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hf_effattn.kernels import build as builder
from hf_effattn.kernels.build import BuildError, build


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_EFFATTN_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def run(code: str, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.slow
def test_compiles_once(cache, monkeypatch):
    library = build()
    assert list(cache.iterdir()) == [library]
    monkeypatch.setattr(builder, "compile_library", lambda *_: pytest.fail("compiled twice"))
    assert build() == library


def test_the_name_tells_source_compiler_flags_and_processor_apart(cache, monkeypatch):
    monkeypatch.setattr(builder, "compile_library", lambda command, library: None)
    names = {build()}
    monkeypatch.setattr(builder, "FLAGS", [*builder.FLAGS, "-g"])
    names.add(build())
    monkeypatch.setattr(builder, "processor", lambda: "another")
    names.add(build())
    monkeypatch.setattr(builder, "compiler_version", lambda compiler: "another")
    names.add(build())
    monkeypatch.setattr(builder, "SOURCES", Path(__file__).parent)
    names.add(build())
    assert len(names) == 5


def test_no_compiler(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="no C\\+\\+ compiler 'no-such-compiler' on the PATH; install g"):
        build()


def test_a_compiler_that_is_not_gcc(cache, tmp_path, monkeypatch):
    clang = script(tmp_path / "clang++", 'echo "#define __clang__ 1\n#define __GNUC__ 4"')
    monkeypatch.setenv("CXX", clang)
    with pytest.raises(BuildError, match="is not GCC; install g"):
        build()


def test_a_compiler_that_fails_leaves_nothing_behind(cache, monkeypatch):
    monkeypatch.setenv("CXX", "g++ -include /no/such/header.h")
    with pytest.raises(BuildError, match=r"failed with status 1:\n.*/no/such/header\.h"):
        build()
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_compiler_that_fails_halfway_leaves_nothing_behind(cache, tmp_path, monkeypatch):
    broken = script(
        tmp_path / "g++", 'case "$*" in *-E*) exec /usr/bin/env g++ "$@";; *-o*) echo half > "${10}"; exit 1;; esac'
    )
    monkeypatch.setenv("CXX", broken)
    with pytest.raises(BuildError, match="failed with status 1"):
        build()
    assert list(cache.iterdir()) == []


def test_a_compiler_that_hangs(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", script(tmp_path / "g++", "sleep 60"))
    monkeypatch.setattr(builder, "TIMEOUT", 0.1)
    with pytest.raises(BuildError, match="did not end within"):
        build()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_EFFATTN_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="set HF_EFFATTN_CACHE to a folder that can be written"):
        build()


ATTEND = """
import torch
from hf_effattn import linear_attention
rows = torch.rand(1, 2, 5, 4)
"""


def test_a_library_that_cannot_be_loaded_is_named(tmp_path):
    code = ATTEND + "from hf_effattn.kernels import build\nbuild.compile_library = lambda command, path: (\n"
    code += "    path.parent.mkdir(parents=True), path.write_bytes(b'half'))\nlinear_attention(rows, rows, rows)\n"
    code += "linear_attention(rows, rows, rows, backend='cpu')"
    done = run(code, HF_EFFATTN_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert "linear attention runs in plain torch, more slowly than it could" in done.stderr
    assert "cannot be loaded" in done.stderr and "remove it to have it compiled anew" in done.stderr


def test_without_a_compiler_torch_serves_and_says_so(tmp_path):
    code = ATTEND + "from hf_effattn import backends\nlinear_attention(rows, rows, rows)\n"
    code += "print(backends()['linear_attention']['torch'])\nlinear_attention(rows, rows, rows, backend='cpu')"
    done = run(code, CXX="no-such-compiler", HF_EFFATTN_CACHE=str(tmp_path))
    assert done.stdout.strip() == "chosen"
    assert done.stderr.count("linear attention runs in plain torch") == 1
    assert "RuntimeError: attention_backend 'cpu' cannot run" in done.stderr
    assert "install g++" in done.stderr


@pytest.mark.parametrize(("compiler", "status"), [("g++", 0), ("no-such-compiler", 1)])
def test_the_doctor(compiler, status, tmp_path):
    environment = {} if status == 0 else {"HF_EFFATTN_CACHE": str(tmp_path)}
    done = run("from hf_effattn.cli import app; app(['doctor'])", CXX=compiler, **environment)
    assert done.returncode == status, done.stderr
    assert ("install g++" in done.stdout) is (status == 1)
    assert ("The fastest backend of every operator runs." in done.stdout) is (status == 0)


def test_the_doctor_refuses_an_unknown_dtype():
    done = run("from hf_effattn.cli import app; app(['doctor', '--dtype', 'int8'])")
    assert done.returncode == 2
    assert "not a floating-point dtype" in done.stderr


ON_OTHER_PROCESSORS = """
import json, torch
from hf_effattn.kernels import build
from hf_effattn.models.ops_linear import linear_attention
from hf_effattn.models.ops_maps import MapLayer
from tests.numerics import relative_error

build.native_flags = lambda: json.loads({flags!r})
torch.manual_seed(0)
errors = {{}}
for causal in (False, True):
    tensors = [torch.randn(2, 3, 75, 24, requires_grad=True) for _ in range(3)]
    tensors += [torch.randn(3, 24, 20, requires_grad=True) for _ in range(2)]
    results = []
    for backend, dtype in (("cpu", torch.float32), ("torch", torch.float64)):
        query, key, value, weight, gate = (tensor.to(dtype) for tensor in tensors)
        feature_map = MapLayer("softplus", weight, gate=gate)
        output, state = linear_attention(query, key, value, causal=causal, feature_map=feature_map, backend=backend)
        loss = output.tanh().sum() + state.tanh().sum()
        results.append([output, state, *torch.autograd.grad(loss, tensors)])
    errors[causal] = max(relative_error(actual, expected) for actual, expected in zip(*results))
assert max(errors.values()) < 1e-5, errors
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other instruction sets of x86-64")
@pytest.mark.parametrize("flags", [["-mavx2", "-mfma"], ["-march=x86-64"]], ids=["AVX2", "SSE2"])
def test_smaller_vectors_give_the_same(flags, tmp_path):
    done = run(ON_OTHER_PROCESSORS.format(flags=json.dumps(flags)), HF_EFFATTN_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
