"""What a run costs, and what it ran on: tokens per second, peak memory, code and environment."""

import hashlib
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..machine import peak_resident_bytes
from ..version import __version__
from .results import Environment


#: Packages beside this one whose versions can change a result.
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers", "numpy")


class ThroughputCallback(TrainerCallback):
    """Real tokens per second of training steps; evaluation, saving and loading data do not count."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tokens = 0
        self._step_started = 0.0
        self._tokens_at_start: int | None = None

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A resumed run starts with the tokens of the steps before it.
        self._tokens_at_start = int(state.num_input_tokens_seen)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_started = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._step_started
        self.tokens = int(state.num_input_tokens_seen) - (self._tokens_at_start or 0)


def peak_memory_bytes() -> int:
    """The peak memory of this process: on the GPU if there is one, else resident on the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_resident_bytes()


def code_checksum() -> str:
    """SHA-256 over the package's own files, in the order of their names: equal code has equal checksums."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".h", ".cpp")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def environment() -> Environment:
    """Versions, machine and threads: what has to be the same for a result to come out the same."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        cpu_count=os.cpu_count(),
        torch_threads=torch.get_num_threads(),
        versions={"hf_effattn": __version__} | {package: version(package) for package in PACKAGES},
    )
