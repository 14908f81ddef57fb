"""Compile the kernels once for each source, compiler and processor, and cache the library.

The cache is ``$HF_EFFATTN_CACHE`` (by default ``~/.cache/hf_effattn``). The file name is a digest of sources,
compiler, flags and processor, and a checksum lies beside the file. A cached library is loaded only if this user wrote
it and nobody else can have (`trusted_files`). The sources include no header of torch, so compiling takes seconds.
"""

import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from .trusted_files import distrust, flaw, make_private, put_in_place


logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "csrc"
FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared", "-fno-math-errno", "-fvisibility=hidden"]
#: Seconds after which a compiler is taken to hang.
TIMEOUT = 300

#: Prefix of the folders in which a library is compiled.
DRAFTS = ".compiling-"


class BuildError(RuntimeError):
    """The kernels cannot be compiled here; the message says why and what would help."""


def build() -> Path:
    """The compiled library, from the cache or newly compiled; nobody but this user can have written it.

    Raises:
        BuildError: no compiler, a compiler other than GCC, or one that fails; a cache that cannot be written, or to
            which others can write.
    """
    if os.name != "posix":
        raise BuildError(f"the kernels are built on POSIX systems alone, this one is {platform.system()}")
    compiler = find_compiler()
    command = [*compiler, *FLAGS, *native_flags()]
    version = compiler_version(compiler)
    try:
        # The library links torch's OpenMP by its file name, which differs between versions of torch.
        openmp = [Path(path).name for path in openmp_of_torch()]
        name = f"linear_attention-{digest(version, processor(), *command, *openmp)}.so"
    except OSError as error:
        raise BuildError(f"the sources of the kernels cannot be read: {error}; install hf_effattn anew") from error
    library = trusted_folder() / name
    if (found := flaw(library)) is None:
        return library
    if os.path.lexists(library):
        logger.warning("%s; compiling it anew", found)
    compile_library(command, library)
    if (found := flaw(library)) is not None:
        raise BuildError(f"{found}, right after it was compiled; set HF_EFFATTN_CACHE to a folder of another disk")
    return library


def find_compiler() -> list[str]:
    """The command of a C++ compiler: ``$CXX`` if set, else ``g++``.

    Raises:
        BuildError: there is none, or ``$CXX`` is no command.
    """
    given = os.environ.get("CXX", "")
    try:
        command = shlex.split(given) or ["g++"]
    except ValueError as error:
        raise BuildError(f"CXX={given!r} is no command ({error}); set it to a GCC, or leave it out") from error
    if shutil.which(command[0]) is None:
        raise BuildError(
            f"no C++ compiler {command[0]!r} on the PATH; install g++ (Debian: apt install g++), or set CXX to a GCC"
        )
    return command


def compiler_version(compiler: list[str]) -> str:
    """The line of the compiler's macros with its version.

    Raises:
        BuildError: it does not answer, or is not GCC, whose vector extensions the source is written in.
    """
    macros = _run([*compiler, "-dM", "-E", "-x", "c++", os.devnull])
    version = next((line for line in macros.splitlines() if "__VERSION__" in line), None)
    if "__clang__" in macros or "__GNUC__" not in macros or version is None:
        raise BuildError(f"{shlex.join(compiler)} is not GCC; install g++, or set CXX to a GCC")
    return version


def native_flags() -> list[str]:
    """The flags with which the compiler uses all instructions of this processor."""
    return ["-mcpu=native"] if platform.machine() in ("aarch64", "arm64") else ["-march=native"]


def processor() -> str:
    """The processor's model and instruction sets, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    telling = {line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features", "CPU part")}
    return "\n".join(sorted(telling)) or platform.processor()


def cache_folder() -> Path:
    """Where compiled libraries are kept, an absolute path.

    Raises:
        BuildError: it would lie in the home folder of a user who has none.
    """
    own, of_caches = os.environ.get("HF_EFFATTN_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has a relative path ignored, and an empty one.
    root = Path(own) if own else Path(of_caches if os.path.isabs(of_caches) else "~/.cache") / "hf_effattn"
    try:
        return root.expanduser().absolute() / "kernels"
    except (RuntimeError, OSError) as error:
        raise BuildError(f"there is no folder {root}: {error} Set HF_EFFATTN_CACHE to a folder of your own") from error


def trusted_folder() -> Path:
    """The folder of compiled libraries without links on the way, made if need be.

    Raises:
        BuildError: it cannot be made, or others than this user could put a library there.
    """
    folder = cache_folder()
    try:
        make_private(folder)
        folder = Path(os.path.realpath(folder))
        reason = distrust(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if reason is not None:
        raise BuildError(
            f"{reason}, so a library there may be another user's: take the right to write from others, or set "
            "HF_EFFATTN_CACHE to a folder of your own"
        )
    return folder


def _unwritable(folder: Path, error: OSError) -> BuildError:
    return BuildError(f"cannot write {folder}: {error}; set HF_EFFATTN_CACHE to a folder that can be written")


def digest(*parts: str) -> str:
    """A digest of the sources and `parts`, sixteen hexadecimal digits."""
    state = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for part in parts:
        state.update(os.fsencode(part) + b"\0")
    return state.hexdigest()[:16]


def compile_library(command: list[str], library: Path) -> None:
    """Run `command` on the source and move the result to `library` in one step; other processes may do the same.

    Raises:
        BuildError: the cache cannot be written, or the compiler fails.
    """
    logger.warning("compiling the CPU kernels of linear attention, once for this machine, into %s", library.parent)
    try:
        _clear_drafts(library.parent)
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=DRAFTS) as folder:
            output = Path(folder) / library.name
            compiling = [*command, "-o", str(output), str(SOURCES / "linear_attention.cpp"), *openmp_of_torch()]
            _run(compiling)
            if not output.is_file() or output.stat().st_size == 0:
                raise BuildError(f"{shlex.join(compiling)} succeeded and wrote nothing; set CXX to a GCC")
            put_in_place(output, library)
    except OSError as error:
        raise _unwritable(library.parent, error) from error


def _clear_drafts(folder: Path) -> None:
    """Remove the folders of processes that were killed: those older than a compiler may run."""
    for left in folder.glob(f"{DRAFTS}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * TIMEOUT:
                shutil.rmtree(left)


def openmp_of_torch() -> list[str]:
    """The OpenMP runtime that torch brings, if it does.

    Linked by its path, the kernels share torch's threads; a second runtime's would contend with them for the cores.
    """
    folders = [Path(torch.__file__).parent / "lib", Path(torch.__file__).parent.parent / "torch.libs"]
    return [str(path) for folder in folders for path in sorted(folder.glob("libgomp*.so*"))][:1]


def _run(command: list[str]) -> str:
    """Run a command without input and return what it prints; its child processes are killed with it."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise BuildError(f"{shlex.join(command)} cannot be run: {error}; set CXX to a GCC") from error
    with process:
        try:
            output, errors = process.communicate(timeout=TIMEOUT)
        except BaseException as error:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise BuildError(f"{shlex.join(command)} did not end within {TIMEOUT} s; set CXX to a GCC") from error
            raise
    if process.returncode:
        raise BuildError(f"{shlex.join(command)} failed with status {process.returncode}:\n{errors.strip()[-2000:]}")
    return output
