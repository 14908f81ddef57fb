"""Run a program with nothing of the user's that it does not need: its environment, its time, and, if asked, a sandbox.

The sandbox is that of `bubblewrap <https://github.com/containers/bubblewrap>`_ where the system has it and allows it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..terminal import printable


#: Of the environment, what the program is given: no tokens, and no way home.
PASSED_ON = (
    *("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG", "LC_ALL"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)

#: Where systems keep the programs and libraries that Python needs.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives")

#: The most that is read of what the program has printed.
TAIL = 20_000


@dataclass(frozen=True)
class Sandbox:
    """A way to shut a program in.

    Attributes:
        command: what stands before the command of the program.
        gaps: what the program can still do, as a sentence; empty if it is shut in.
    """

    command: tuple[str, ...]
    gaps: str


def find_sandbox(scratch: Path, readable: Sequence[Path]) -> Sandbox:
    """The best sandbox that this system allows, tried out.

    With bubblewrap, the program finds the system's libraries, this Python, `readable` and `scratch`, which alone it
    can write to; there is no network and no other process. With ``unshare`` alone there is no network.

    Args:
        scratch: the folder that the program works in.
        readable: files outside of it that the program reads.
    """
    ways = {
        "bwrap": (_bubblewrap(scratch, readable), ""),
        "unshare": (
            ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child"),
            "without network, but it can read and change every file that you can, your home among them: install "
            "bubblewrap",
        ),
    }
    for program, (options, gaps) in ways.items():
        if (path := shutil.which(program)) is not None and _works((path, *options)):
            return Sandbox((path, *options), gaps)
    return Sandbox((), "with all your rights, network and home among them: this system has neither bubblewrap nor "
                       "user namespaces")  # fmt: skip


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


def _bubblewrap(scratch: Path, readable: Sequence[Path]) -> tuple[str, ...]:
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in SYSTEM:
        if os.path.islink(path):
            options += ["--symlink", os.readlink(path), path]
        else:
            options += ["--ro-bind-try", path, path]
    packages = [path for path in sys.path if {"site-packages", "dist-packages"} & set(Path(path).parts)]
    libraries = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if path]
    # A folder comes before what lies in it, so that the one does not cover the other.
    for path in sorted({sys.prefix, sys.base_prefix, *packages, *libraries, *map(str, readable)}):
        options += ["--ro-bind-try", path, path]
    return (*options, "--bind", str(scratch), str(scratch), "--chdir", str(scratch))


def _environment(home: str | Path) -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"HOME": str(home)}


def run_alone(command: Sequence[str], scratch: Path, time_limit: float) -> tuple[int, str]:
    """Run a command in `scratch`, and end it, and what it has started, when it is done or its time is over.

    Returns:
        Its exit status, and the end of what it has printed, fit for a terminal.

    Raises:
        TimeoutError: it ran longer than `time_limit` seconds.
    """
    # A file, not a pipe: whoever has left the group of processes may hold a pipe open for ever.
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
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - TAIL))
        return status, printable(printed.read().decode(errors="replace"))
