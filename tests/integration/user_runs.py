"""Runs of the scripts for a user's own data: their modules, toy data, and command lines."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from safetensors.torch import load_file

from tests.models.variants import tiny_config


ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "training_scripts"


def script(name):
    """A training script as a module."""
    return importlib.import_module(f"training_scripts.{name}")


def labelled_rows(count):
    """Texts of ``a``, called no, against texts of ``b``, called yes, of different lengths."""
    return [{"id": i, "text": "ab"[i % 2] * (3 + i % 5), "label": ("no", "yes")[i % 2]} for i in range(count)]


def write_csv(path, rows):
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_text(path, lines):
    """Lines of a text that can be learnt: the alphabet, again and again, with a line break now and then."""
    path.write_text("".join("abcdefgh" * (1 + i % 3) + "\n" for i in range(lines)))
    return path


def write_config(folder, family, **fields):
    """A config file of a tiny model for bytes."""
    fields = {"vocab_size": 260, "hidden_size": 16, "num_attention_heads": 2} | fields
    tiny_config(family, **fields).save_pretrained(folder)
    return folder / "config.json"


def command_line(**options):
    """The arguments of a short run with frequent evaluations."""
    usual = {
        "max_length": 16,
        "max_steps": 8,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_steps": 4,
        "logging_steps": 1,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
    }
    given = {name: value for name, value in (usual | options).items() if value is not None}
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}" for name, value in given.items()]


def launch(launchers, *command):
    """Run a command under launchers, modules with their options, that start at once, one for each machine."""
    running = []
    with ExitStack() as stack:
        for launcher in launchers:
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            line = [sys.executable, "-m", *map(str, launcher), *map(str, command)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            started = subprocess.Popen(line, env=environment, cwd=ROOT, stdout=log, stderr=log)
            running.append((stack.enter_context(started), log))
            # A launcher that is still there in the end ends its processes when it is told to.
            stack.callback(started.terminate)
        for process, log in running:
            code = process.wait(timeout=300)
            log.seek(0)
            assert code == 0, log.read()[-3000:]


def weights(folder):
    return load_file(folder / "model.safetensors")
