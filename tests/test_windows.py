"""What Windows lacks is no error on import, and what needs it gives its reason.

No Windows is at hand here, so what it lacks is taken away: modules of POSIX, and the names that `os` and `signal` do
not have there.
"""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import hf_effattn
from hf_effattn.hub import isolation


WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys
import accelerate, datasets, evaluate, gradio, matplotlib.figure, PIL.Image, sklearn.metrics, torch
import torch._dynamo, transformers.integrations, transformers.pipelines, transformers.trainer, typer.testing

for module in "fcntl grp pwd resource syslog termios tty".split():
    sys.modules[module] = None
for name in (
    "chown fchmod fchown fork forkpty getegid geteuid getgid getloadavg getpgid getuid initgroups killpg lchown "
    "mkfifo nice openpty posix_spawn register_at_fork sched_getaffinity setegid seteuid setgid setpgid setsid setuid "
    "statvfs sysconf uname wait3 wait4 waitid O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC WNOHANG"
).split():
    delattr(os, name)
for name in "SIGKILL SIGALRM SIGCHLD SIGHUP SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm pause setitimer".split():
    delattr(signal, name)
os.fsync = lambda descriptor: os.write(descriptor, b"")  # which refuses what is only open to be read, as fsync there

import hf_effattn
assert not [name for name in sys.modules if name.startswith("hf_effattn.models.modeling")]
found = [module.name for module in pkgutil.walk_packages(hf_effattn.__path__, "hf_effattn.")]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)

sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
model = hf_effattn.SimpleTronModel(hf_effattn.SimpleTronConfig(**sizes)).eval()
hf_effattn.export_checkpoint(model, hf_effattn.byte_tokenizer(8), sys.argv[1])
hf_effattn.audit_checkpoint(sys.argv[1])
print(len(found))
"""


def test_every_module_is_imported_and_a_checkpoint_exported_without_posix(tmp_path):
    command = [sys.executable, "-c", WITHOUT_POSIX, str(tmp_path / "exported")]
    environment = {"HF_EFFATTN_CACHE": str(tmp_path), "PYTHONPATH": str(tmp_path), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 60
    assert (tmp_path / "exported/config.json").is_file()


class Windows:
    """`os` as it is there, as far as it matters."""

    name = "nt"

    def __getattr__(self, name):
        if name == "killpg":
            raise AttributeError(name)
        return getattr(__import__("os"), name)


def test_the_compiled_kernels_give_their_reason(monkeypatch):
    from hf_effattn.kernels import build, build_error, library
    from hf_effattn.models import backend_cpu

    caches = (build_error, library.library, backend_cpu._missing_kernels)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(build, "os", Windows())
    assert "the kernels are built on POSIX systems alone" in hf_effattn.backends("cpu")["linear_attention"]["cpu"]
    for cache in caches:
        cache.cache_clear()


def test_a_clean_process_ends_in_time_without_groups_of_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(isolation, "os", Windows())
    monkeypatch.setattr(isolation, "signal", SimpleNamespace())
    with pytest.raises(TimeoutError, match=r"stopped after 0\.2 seconds"):
        isolation.run_alone([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0.2)
