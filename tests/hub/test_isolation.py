"""What the clean process is given and is not, and what becomes of what it starts."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from hf_effattn.hub import isolation, verify
from hf_effattn.hub.audit import Audit
from hf_effattn.hub.isolation import find_sandbox, run_alone


def python(code):
    return [sys.executable, "-I", "-c", code]


def ends(pid):
    """Whether a process ends soon; one that is dead and waits for its parent has ended."""
    state = Path(f"/proc/{pid}/stat")
    for _ in range(1000):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.01)
    return False


def test_what_a_program_has_started_ends_with_its_time(tmp_path):
    command = ["sh", "-c", "sleep 600 & echo $! > pid; wait"]
    with pytest.raises(TimeoutError, match=r"it was stopped after 0\.5 seconds; allow more with --time-limit"):
        run_alone(command, tmp_path, 0.5)
    assert ends((tmp_path / "pid").read_text().strip())


def test_what_a_program_has_started_ends_with_it(tmp_path):
    assert run_alone(["sh", "-c", "sleep 600 & echo $! > pid"], tmp_path, 60) == (0, "")
    assert ends((tmp_path / "pid").read_text().strip())


def test_nobody_is_waited_for_who_holds_the_output_open(tmp_path):
    assert run_alone(["sh", "-c", "setsid sleep 600 & echo $! > pid"], tmp_path, 60) == (0, "")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_program_is_told_no_token_and_no_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    status, printed = run_alone(python("import os; print(dict(os.environ))"), tmp_path, 60)
    assert status == 0 and "secret" not in printed and str(Path.home()) not in printed.replace(os.environ["PATH"], "")
    assert f"'HOME': '{tmp_path}'" in printed


def test_what_is_printed_is_cut_and_fit_for_a_terminal(tmp_path):
    code = "import sys; sys.stderr.buffer.write(b'a' * 10**6 + b'\\x1b[2J\\r\\xff\\xe2\\x80\\xae\\n'); sys.exit(3)"
    status, printed = run_alone(python(code), tmp_path, 60)
    assert status == 3 and len(printed) < 30_000
    assert printed.endswith("a\\x1b[2J\\r�\\u202e\n")


#: Tries what code of others must not do, and writes down what came of it.
PROBE = """
import json, os, socket, sys
from pathlib import Path
home, port, secret, weights = sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:])

def tried(action):
    try:
        action()
    except OSError:
        return False
    return True

found = {
    "reads a secret": tried(secret.read_text),
    "reads home": "secret" in os.listdir(home) if os.path.isdir(home) else False,
    "connects": tried(lambda: socket.create_connection(("127.0.0.1", port), 1)),
    "sees its parents": len([name for name in os.listdir("/proc") if name.isdigit()]) > 5,
    "changes python": tried(Path(sys.prefix, "planted").touch),
    "changes the system": tried(Path("/usr/planted").touch),
    "changes weights": tried(lambda: weights.write_text("other")),
    "mounts": os.system("mount -o remount,bind,rw /usr 2> /dev/null") == 0,
    "reads weights": weights.read_text() == "weights",
    "writes": tried(Path("written").touch),
}
Path("found").write_text(json.dumps(found))
"""


@pytest.mark.parametrize("program", ["bwrap", "unshare"])
def test_code_of_others_is_shut_in(tmp_path, monkeypatch, program):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: which(name) if name == program else None)
    scratch, home, weights = tmp_path / "scratch", tmp_path / "home", tmp_path / "weights"
    scratch.mkdir()
    home.mkdir()
    (home / "secret").write_text("a key")
    weights.write_text("weights")
    if (sandbox := find_sandbox(scratch, [weights])) is None:
        pytest.skip(f"this system has no {program}, or does not let it make namespaces")
    assert sandbox[0] == which(program)
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = [str(home), str(server.getsockname()[1]), str(home / "secret"), str(weights)]
        status, printed = run_alone([*sandbox, *python(PROBE), *arguments], scratch, 60)
    assert status == 0, printed
    found = json.loads((scratch / "found").read_text())
    assert [name for name, came_true in found.items() if came_true] == ["reads weights", "writes"]


def test_home_is_not_let_in_with_python(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "alias/bin").mkdir(parents=True)
    (tmp_path / "bin/python").symlink_to("../alias/bin/python")
    (tmp_path / "alias/bin/python").symlink_to("/bin/python")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    folders = isolation._python_folders()
    assert {str(tmp_path / "alias"), sys.base_prefix} <= folders
    assert not {str(tmp_path), str(tmp_path.parent), "/"} & folders


def test_without_a_sandbox_a_warning_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    audit = Audit(files={}, code={"skeleton_heads.py": "0"}, weights=(), foreign=("skeleton_heads.py",))
    assert verify._sandbox(tmp_path, audit, tmp_path) == ()
    assert f"the foreign code in {tmp_path} runs with all your rights, and can reach your files" in caplog.text
    caplog.clear()
    assert verify._sandbox(tmp_path, Audit({}, {"skeleton_heads.py": "0"}, (), ()), tmp_path) == () and not caplog.text
