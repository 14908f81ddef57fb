"""Building the kernels: once, whole or not at all, and with a reason where it cannot be done."""

import ctypes
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hf_effattn.kernels import build as builder
from hf_effattn.kernels import library as mirror
from hf_effattn.kernels import trusted_files
from hf_effattn.kernels.build import BuildError, build, cache_folder
from hf_effattn.kernels.trusted_files import checksum_file, flaw


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_EFFATTN_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


#: A compiler that takes no time: what it writes to ``-o`` is a text.
QUICK = """
case "$*" in *-E*) printf '#define __GNUC__ 14\n#define __VERSION__ "14"\n'; exit 0;; esac
while [ "$1" != "-o" ]; do shift; done
echo run >> "$(dirname "$0")/runs"
echo library > "$2"
"""


@pytest.fixture
def quick(cache, tmp_path, monkeypatch):
    """A compiler of no time, and a function that says how often it has compiled."""
    monkeypatch.setenv("CXX", script(tmp_path / "g++", QUICK))
    runs = tmp_path / "runs"
    return lambda: len(runs.read_text().split()) if runs.exists() else 0


def run(code: str, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.slow
def test_compiles_once(cache, monkeypatch):
    library = build()
    assert sorted(cache.iterdir()) == [library, checksum_file(library)]
    monkeypatch.setattr(builder, "compile_library", lambda *_: pytest.fail("compiled twice"))
    assert build() == library


def test_the_name_tells_source_compiler_flags_and_processor_apart(cache, monkeypatch):
    monkeypatch.setattr(builder, "flaw", lambda library: None)
    names = {build()}
    monkeypatch.setattr(builder, "FLAGS", [*builder.FLAGS, "-g"])
    names.add(build())
    monkeypatch.setattr(builder, "processor", lambda: "another")
    names.add(build())
    monkeypatch.setattr(builder, "compiler_version", lambda compiler: "another")
    names.add(build())
    # Another torch brings another OpenMP, whose name the library asks for.
    monkeypatch.setattr(builder, "openmp_of_torch", lambda: ["another"])
    names.add(build())
    monkeypatch.setattr(builder, "SOURCES", Path(__file__).parent)
    names.add(build())
    assert len(names) == 6


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


#: Whatever else a compiler may be or do.
ODD = {
    "no command": ("'", None, "is no command"),
    "an empty name": ("''", None, "no C\\+\\+ compiler ''"),
    "a folder": ("/", None, "no C\\+\\+ compiler"),
    "silent": (None, "exit 0", "is not GCC"),
    "no version": (None, "echo '#define __GNUC__ 14'", "is not GCC"),
    "no text": (None, r"printf '\377\376\n'", "is not GCC"),
    "no text, and fails": (None, r"printf '\377\376\n' >&2; exit 3", "failed with status 3"),
    "reads": (None, "cat; exit 4", "failed with status 4"),
    "writes nothing": (None, QUICK.replace("echo library", "exit 0 #"), "succeeded and wrote nothing"),
    "writes an empty file": (None, QUICK.replace("echo library", ":"), "succeeded and wrote nothing"),
    "killed": (None, "kill -9 $$", "failed with status -9"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_answers_of_a_compiler_are_a_reason(cache, tmp_path, monkeypatch, kind):
    command, text, message = ODD[kind]
    monkeypatch.setenv("CXX", command or script(tmp_path / "g++", text))
    with pytest.raises(BuildError, match=message):
        build()
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_file_that_is_no_program_is_a_reason(cache, tmp_path, monkeypatch):
    (tmp_path / "g++").write_bytes(b"\x7fELF")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    with pytest.raises(BuildError, match=r"cannot be run: .*Exec format error.*; set CXX to a GCC"):
        build()


def test_what_a_hanging_compiler_has_started_ends_with_it(cache, tmp_path, monkeypatch):
    child = tmp_path / "child"
    monkeypatch.setenv("CXX", script(tmp_path / "g++", f"sleep 60 & echo $! > {child}; wait"))
    monkeypatch.setattr(builder, "TIMEOUT", 0.5)
    with pytest.raises(BuildError, match="did not end within"):
        build()
    status = Path(f"/proc/{child.read_text().strip()}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] in "ZX"


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_EFFATTN_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="set HF_EFFATTN_CACHE to a folder that can be written"):
        build()


def test_a_folder_of_the_current_directory_is_no_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_EFFATTN_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = {}
    for value in (None, "", "relative", "./.cache", "~/other", str(tmp_path / "elsewhere")):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        found[value] = cache_folder()
    elsewhere = found.pop(str(tmp_path / "elsewhere"))
    assert elsewhere == tmp_path / "elsewhere/hf_effattn/kernels"
    assert set(found.values()) == {tmp_path / ".cache/hf_effattn/kernels"}
    monkeypatch.setenv("HF_EFFATTN_CACHE", "")
    assert cache_folder() == elsewhere
    monkeypatch.setenv("HF_EFFATTN_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own/kernels"


def test_a_user_without_a_home_is_a_reason(monkeypatch):
    for name in ("HF_EFFATTN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(
        BuildError, match=r"there is no folder ~/\.cache/hf_effattn: .* Set HF_EFFATTN_CACHE to a folder"
    ):
        build()
    monkeypatch.setenv("HF_EFFATTN_CACHE", "~no-such-user/cache")
    with pytest.raises(BuildError, match="there is no folder ~no-such-user/cache"):
        build()


def cut(path):
    path.write_bytes(path.read_bytes()[:3])


def changed(path):
    path.write_bytes(b"L" + path.read_bytes()[1:])


def by_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": cut,
    "changed": changed,
    "a link": by_link,
    "open to others": lambda path: path.chmod(0o666),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", ["library", "checksum"])
def test_a_damaged_library_is_compiled_anew(cache, quick, caplog, which, damage):
    library = build()
    assert (build(), quick()) == (library, 1)
    DAMAGES[damage](library if which == "library" else checksum_file(library))
    assert flaw(library) is not None
    assert (build(), quick()) == (library, 2)
    assert flaw(library) is None and library.read_text() == "library\n"
    assert ("compiling it anew" in caplog.text) is ((which, damage) != ("library", "missing"))
    assert (build(), quick()) == (library, 2)


def test_a_library_of_an_earlier_version_has_no_checksum_and_is_not_taken(cache, quick):
    library = build()
    checksum_file(library).unlink()
    library.write_text("planted\n")
    assert build().read_text() == "library\n" and quick() == 2


def test_a_library_is_on_the_disk_before_it_has_its_name(cache, quick, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda one, other: (done.append(Path(other).name), replace(one, other)))
    library = build()
    names = [Path(path).name for path in done]
    checksum = checksum_file(library).name
    assert names == [library.name, checksum, library.name, checksum, "kernels"]


def test_what_a_killed_compiler_left_is_cleared_away(cache, quick):
    cache.mkdir(mode=0o700)
    old, fresh = cache / f"{builder.DRAFTS}old", cache / f"{builder.DRAFTS}fresh"
    for left in (old, fresh):
        left.mkdir()
        (left / "half").touch()
    os.utime(old, (0, 0))
    build()
    assert not old.exists() and fresh.exists(), "another process may be at work there"


needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files to another user")
REMEDY = "so a library there may be another user's: take the right to write from others, or set HF_EFFATTN_CACHE to"


@needs_root
def test_a_library_that_another_user_planted_is_not_loaded_as_root_either(cache, quick):
    planted = build()
    planted.write_text("planted\n")
    checksum_file(planted).write_text(hashlib.sha256(b"planted\n").hexdigest() + "\n")
    assert flaw(planted) is None
    for path in (planted, checksum_file(planted)):
        os.chown(path, 12345, -1)
        assert f"{path} belongs to user 12345" in flaw(planted)
        os.chown(path, 0, -1)
    os.chown(planted, 12345, -1)
    assert build().read_text() == "library\n" and planted.stat().st_uid == 0
    os.chown(cache, 12345, -1)
    with pytest.raises(BuildError, match=f"kernels belongs to user 12345, not to user 0 who runs this, {REMEDY}"):
        build()


@needs_root
def test_a_folder_on_the_way_belongs_to_this_user_or_to_root(cache, quick, tmp_path):
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(BuildError, match=f"which leads to {cache}, belongs to user 12345, {REMEDY}"):
        build()
    assert quick() == 0


def test_nobody_else_can_write_on_the_way(cache, quick, tmp_path, monkeypatch):
    cache.mkdir()
    cache.chmod(0o777)
    build()
    assert cache.stat().st_mode & 0o777 == 0o755, "this user's own folder is closed to others"
    tmp_path.chmod(0o777)
    with pytest.raises(BuildError, match=f"others can write to {tmp_path}, which leads to {cache}, {REMEDY}"):
        build()
    tmp_path.chmod(0o1777)
    build()
    tmp_path.chmod(0o770)
    for private in (True, False):
        monkeypatch.setattr(trusted_files, "_is_private_group", lambda group, user, answer=private: answer)
        if private:
            build()
    with pytest.raises(BuildError, match="others can write to"):
        build()
    # On some disks every file is open to all.
    monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    os.chmod(tmp_path, 0o700)
    os.chmod(cache, 0o777)
    with pytest.raises(BuildError, match=f"others can write to {cache}, {REMEDY}"):
        build()


def test_a_private_group_has_one_member(monkeypatch):
    class Group:
        gr_name, gr_mem = "ann", []

    class User:
        pw_name = "ann"

    monkeypatch.setattr("grp.getgrgid", lambda group: Group)
    monkeypatch.setattr("pwd.getpwuid", lambda user: User)
    assert trusted_files._is_private_group(1, 1)
    Group.gr_mem = ["ann", "bob"]
    assert not trusted_files._is_private_group(1, 1)
    Group.gr_name, Group.gr_mem = "users", []
    assert not trusted_files._is_private_group(1, 1)


def test_folders_that_are_made_are_closed_to_others(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("HF_EFFATTN_CACHE", str(tmp_path / "new/cache"))
    before = os.umask(0)
    try:
        library = build()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in library.parents[:3]} == {0o700}


def test_the_cache_may_be_a_link_to_a_folder_that_can_be_trusted(tmp_path, quick, monkeypatch):
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.setenv("HF_EFFATTN_CACHE", str(tmp_path / "link"))
    assert build().parent == tmp_path / "there/kernels"


@pytest.fixture
def other_mirror(monkeypatch):
    """A function that puts another struct into the place of the one that is mirrored from C."""

    def put(name, fields):
        monkeypatch.setitem(mirror.STRUCTS, name, type(name, (ctypes.Structure,), {"_fields_": fields}))

    yield put
    mirror.library.cache_clear()


def test_every_field_lies_where_the_compiler_has_put_it(other_mirror):
    mirror.library.cache_clear()
    assert mirror.compiled_layout(mirror.library()) == mirror.layout()
    fields = list(mirror.Map._fields_)
    other_mirror("MapArguments", [fields[0], fields[2], fields[1], fields[3]])
    mirror.library.cache_clear()
    with pytest.raises(
        BuildError, match=r"another interface .*\['MapArguments.bias', 'MapArguments.weight'\]: install"
    ):
        mirror.library()
    other_mirror("MapArguments", [("activation", ctypes.c_float), *fields[1:]])
    with pytest.raises(BuildError, match=r"\['MapArguments.activation'\]"):
        mirror.library()


def test_names_of_dtypes_and_activations_have_their_numbers(monkeypatch):
    mirror.library.cache_clear()
    monkeypatch.setattr(mirror, "ACTIVATIONS", ("identity", "relu", "elu", "softplus"))
    with pytest.raises(BuildError, match=r"\['Activation.elu', 'Activation.relu'\]"):
        mirror.library()


ATTEND = """
import torch
from hf_effattn import linear_attention
rows = torch.rand(1, 2, 5, 4)
"""


def test_a_library_that_cannot_be_loaded_is_named(tmp_path):
    code = ATTEND + "linear_attention(rows, rows, rows)\nlinear_attention(rows, rows, rows, backend='cpu')"
    done = run(code, CXX=script(tmp_path / "g++", QUICK), HF_EFFATTN_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert "linear attention runs in plain torch, more slowly than it could" in done.stderr
    assert "cannot be loaded" in done.stderr and "remove it to have it compiled anew" in done.stderr


def test_a_forward_pass_of_a_user_without_a_home_runs_in_torch_and_says_why():
    code = (
        "import os, pwd\nfor name in ('HOME', 'XDG_CACHE_HOME', 'HF_EFFATTN_CACHE'):\n    os.environ.pop(name, None)\n"
    )
    code += ATTEND + "pwd.getpwuid = {}.__getitem__\nlinear_attention(rows, rows, rows)\n"
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert (
        "linear attention runs in plain torch, more slowly than it could: there is no folder ~/.cache" in done.stderr
    )


def test_the_commands_of_a_user_without_a_home_say_what_to_set():
    """The doctor goes on without a cache; a download has nowhere to go."""
    unset = ("HOME", "XDG_CACHE_HOME", "HF_EFFATTN_CACHE", "HF_HOME", "HF_HUB_CACHE")
    code = f"import os, pwd\nfor name in {unset}:\n    os.environ.pop(name, None)\npwd.getpwuid = dict().__getitem__\n"
    code += "from hf_effattn.cli import app\napp({})"
    doctor = run(code.format(["doctor"]))
    assert doctor.returncode == 1 and "compiled kernels  none: there is no folder ~/.cache" in doctor.stdout
    assert "linear_attention: cpu does not run: there is no folder ~/.cache" in doctor.stdout.split("fastest first")[1]
    export = run(code.format(["export", "owner/name", "model"]), HF_HUB_OFFLINE="1")
    assert export.returncode == 1
    assert "failed: owner/name cannot be downloaded: " in export.stderr and "Set HOME or HF_HOME" in export.stderr
    for done in (doctor, export):
        assert "Traceback" not in done.stdout + done.stderr


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
from hf_effattn.models.base_map_layer import MapLayer
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
