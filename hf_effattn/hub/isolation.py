"""Runs a program with a small environment and a time limit, and, if wanted, in a sandbox.

The sandbox is `bubblewrap <https://github.com/containers/bubblewrap>`_ if the system has it. Otherwise ``unshare`` of
util-linux makes the same namespaces. Both need a Linux that lets users make namespaces.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..terminal import printable


#: The environment variables that the program gets. No token and no home folder is among them.
KEPT_VARIABLES = (
    *("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG", "LC_ALL"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)

#: The folders of a system with the programs and libraries that Python needs.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives")

#: How many bytes are read from the end of the output of the program.
TAIL = 20_000


#: The script that ``unshare`` runs as the root user of new namespaces. It builds a file system with the given paths
#: only, moves into it, gives up all rights over it, and starts the program.
BUILD_ROOT = """
set -e
scratch=$1; shift
mkdir -p "$scratch/root"
mount -t tmpfs -o mode=755 root "$scratch/root"
cd "$scratch/root"
mkdir -p proc dev tmp old ".$scratch"
mount -t proc proc proc
for device in null zero random urandom; do touch dev/$device; mount --bind /dev/$device dev/$device; done
while [ "$1" != -- ]; do
    if [ -L "$1" ]; then
        ln -s "$(readlink "$1")" ".$1"
    elif [ -e "$1" ]; then
        if [ -d "$1" ]; then mkdir -p ".$1"; else mkdir -p "$(dirname ".$1")"; touch ".$1"; fi
        mount --bind "$1" ".$1"
        mount -o remount,bind,ro,nosuid,nodev ".$1"
    fi
    shift
done
shift
mount --bind "$scratch" ".$scratch"
pivot_root . old
umount -l /old
cd "$scratch"
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""


def find_sandbox(scratch: Path, readable: Sequence[Path]) -> tuple[str, ...] | None:
    """Return the beginning of a command line that runs a command in a sandbox; None if the system allows no sandbox.

    The sandbox is tried out first. In it, a program can read the libraries of the system, this Python, and `readable`.
    It can write to `scratch` only. It has no network, and sees no other process.

    Args:
        scratch: the folder that the program works in.
        readable: files outside of `scratch` that the program reads.
    """
    # Sorted, a folder comes before the paths in it. In the other order it would hide them.
    paths = [*SYSTEM, *sorted({*_python_folders(), *map(str, readable)})]
    for program, options in (("bwrap", _bubblewrap(scratch, paths)), ("unshare", _unshare(scratch, paths))):
        if (path := shutil.which(program)) is not None and _works((path, *options)):
            return (path, *options)
    return None


def _python_folders() -> set[str]:
    """Return the folders of this Python, its packages and libraries, but none that contains the home folder."""
    packages = [path for path in sys.path if {"site-packages", "dist-packages"} & set(Path(path).parts)]
    libraries = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    folders = {sys.prefix, sys.base_prefix, *packages, *libraries}
    # A virtual environment may find its Python through further links.
    program = sys.executable
    while os.path.islink(program):
        program = os.path.join(os.path.dirname(program), os.readlink(program))
        folders.add(os.path.dirname(os.path.dirname(program)))
    home = Path(os.path.expanduser("~"))
    return {path for path in map(os.path.abspath, folders) if not home.is_relative_to(path)}


def _bubblewrap(scratch: Path, paths: Sequence[str]) -> tuple[str, ...]:
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in paths:
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        else:
            options += ["--ro-bind-try", path, path]
    return (*options, "--bind", str(scratch), str(scratch), "--chdir", str(scratch), "--")


def _unshare(scratch: Path, paths: Sequence[str]) -> tuple[str, ...]:
    spaces = ("--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child")
    return (*spaces, "--", "sh", "-c", BUILD_ROOT, "sh", str(scratch), *paths, "--")


def _works(command: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run(
            [*command, sys.executable, "-I", "-c", "import ssl"],
            capture_output=True,
            timeout=60,
            env=_environment("/"),
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _environment(home: str | Path) -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | {
        name: str(home) for name in ("HOME", "USERPROFILE")
    }


def run_alone(command: Sequence[str], scratch: Path, time_limit: float) -> tuple[int, str]:
    """Run a command in `scratch`. At its end, or after the time limit, all processes that it started are ended.

    Returns:
        The exit status, and the end of the output, safe to print on a terminal.

    Raises:
        TimeoutError: the command ran longer than `time_limit` seconds.
    """
    # A file and not a pipe, because a process that has left the group could keep a pipe open for ever.
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=_environment(scratch),
            start_new_session=True,
        )
        try:
            status = process.wait(time_limit)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"it was stopped after {time_limit:g} seconds; allow more with --time-limit") from error
        finally:
            _end(process)
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - TAIL))
        return status, printable(printed.read().decode(errors="replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and the processes of its group."""
    if hasattr(os, "killpg"):
        # Some systems raise PermissionError for a group whose processes are all dead.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
