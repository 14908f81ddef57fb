"""Compile the kernels once per source, compiler and processor, and find them again.

The result lies in ``$HF_EFFATTN_CACHE`` (by default ``~/.cache/hf_effattn``), under a name that is a digest of all
that went into it. Nothing of torch is needed to compile, so it takes seconds.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging


logger = logging.get_logger(__name__)

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared", "-fno-math-errno", "-fvisibility=hidden"]
#: Seconds after which a compiler is taken to hang.
TIMEOUT = 300


class BuildError(RuntimeError):
    """The kernels cannot be compiled here; the message says why and what would help."""


def build() -> Path:
    """The compiled library, from the cache or fresh.

    Raises:
        BuildError: no compiler, a compiler other than GCC, or one that fails.
    """
    compiler = find_compiler()
    command = [*compiler, *FLAGS, *native_flags()]
    name = f"linear_attention-{digest(compiler_version(compiler), processor(), *command)}.so"
    library = cache_folder() / name
    if not library.exists():
        compile_library(command, library)
    return library


def find_compiler() -> list[str]:
    """The command of a C++ compiler: ``$CXX`` if set, else ``g++``.

    Raises:
        BuildError: there is none.
    """
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(command[0]) is None:
        raise BuildError(
            f"no C++ compiler {command[0]!r} on the PATH; install g++ (Debian: apt install g++), or set CXX to a GCC"
        )
    return command


def compiler_version(compiler: list[str]) -> str:
    """What the compiler says about itself.

    Raises:
        BuildError: it does not answer, or is not GCC, whose vector extensions the source is written in.
    """
    macros = _run([*compiler, "-dM", "-E", "-x", "c++", os.devnull])
    if "__clang__" in macros or "__GNUC__" not in macros:
        raise BuildError(f"{shlex.join(compiler)} is not GCC; install g++, or set CXX to a GCC")
    return next(line for line in macros.splitlines() if "__VERSION__" in line)


def native_flags() -> list[str]:
    """What makes the compiler use all that this processor can do."""
    return ["-mcpu=native"] if platform.machine() in ("aarch64", "arm64") else ["-march=native"]


def processor() -> str:
    """The processor's model and instruction sets, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    telling = {line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features", "CPU part")}
    return "\n".join(sorted(telling)) or platform.processor()


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    root = os.environ.get("HF_EFFATTN_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "hf_effattn"
    return Path(root).expanduser() / "kernels"


def digest(*parts: str) -> str:
    """Sixteen hexadecimal digits that stand for the sources and `parts`."""
    state = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in parts:
        state.update(part.encode() + b"\0")
    return state.hexdigest()[:16]


def compile_library(command: list[str], library: Path) -> None:
    """Run `command` on the source and put the result in place in one step, whoever else does the same meanwhile.

    Raises:
        BuildError: the cache cannot be written, or the compiler fails.
    """
    logger.warning_once(f"compiling the CPU kernels of linear attention, once for this machine, into {library.parent}")
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            output = Path(folder) / library.name
            _run([*command, "-o", str(output), str(SOURCES / "linear_attention.cpp"), *openmp_of_torch()])
            os.replace(output, library)
    except OSError as error:
        raise BuildError(
            f"cannot write {library.parent}: {error}; set HF_EFFATTN_CACHE to a folder that can be written"
        ) from error


def openmp_of_torch() -> list[str]:
    """The OpenMP runtime that torch brings, if it does.

    Linked by its path, the kernels share torch's threads; a second runtime's would contend with them for the cores.
    """
    folders = [Path(torch.__file__).parent / "lib", Path(torch.__file__).parent.parent / "torch.libs"]
    return [str(path) for folder in folders for path in sorted(folder.glob("libgomp*.so*"))][:1]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{shlex.join(command)} did not end within {TIMEOUT} s") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)} failed with status {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return done.stdout
