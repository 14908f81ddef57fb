"""Prove that a checkpoint folder is all that a user needs: load it in a clean process, without us and offline."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from .audit import Audit, audit_checkpoint
from .inputs import sample_inputs
from .loading import head_classes, load_checkpoint


#: Rounding, relative to the largest logit: there the compiled kernels are missing, and sums run in another order.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

#: Of the environment, what the clean process is given.
PASSED_ON = (
    *("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "LANG", "LC_ALL"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)


#: What a tokenizer is tried with.
TEXT = "[MAX 2 9 ] A film to remember, für immer."


def verify_checkpoint(
    folder: str | Path,
    auto_class: str,
    inputs: dict[str, torch.Tensor],
    expected: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> float:
    """Load `folder` through `auto_class` in a process without hf_effattn and without network, and compare logits.

    Args:
        folder: a checkpoint with its code.
        auto_class: name of the Auto class to load through, such as ``"AutoModelForSequenceClassification"``.
        inputs: what the model is called with.
        expected: the logits that the model gave here.
        tokenizer: that of the folder, as it is here; if given, a text must become the same tokens there.

    Returns:
        The largest absolute difference between the logits there and `expected`.

    Raises:
        RuntimeError: the checkpoint does not load or run there; the message holds the other process's error.
        ValueError: the logits there differ by more than rounding, see `TOLERANCE`, or the tokens differ.
    """
    with tempfile.TemporaryDirectory() as scratch:
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, f"{scratch}/inputs.safetensors")
        if tokenizer is not None:
            Path(scratch, "text").write_text(TEXT, encoding="utf-8")
        command = [sys.executable, "-I", str(Path(__file__).with_name("clean_load.py")), str(Path(folder).resolve())]
        # The code of the checkpoint is told none of the tokens that may be in the environment, nor where home is.
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"HOME": scratch}
        done = subprocess.run(
            [*command, auto_class, scratch], capture_output=True, text=True, cwd=scratch, env=environment
        )
        if done.returncode != 0:
            raise RuntimeError(f"{folder} does not load through {auto_class} in a clean process:\n{done.stderr}")
        outputs = load_file(f"{scratch}/outputs.safetensors")
    if tokenizer is not None and outputs["token_ids"].tolist() != tokenizer(TEXT)["input_ids"]:
        raise ValueError(f"the tokenizer of {folder} gives other tokens in a clean process")
    logits = outputs["logits"]
    difference = float((logits.double() - expected.detach().double()).abs().max())
    tolerance = TOLERANCE[expected.dtype] * max(1.0, float(expected.detach().abs().max()))
    if not difference <= tolerance:
        raise ValueError(f"the logits of {folder} differ by {difference:.3g} in a clean process, over {tolerance:.3g}")
    return difference


@dataclass(frozen=True)
class Verification:
    """What `verify_folder` found.

    Attributes:
        audit: the code, its imports, and the weight files.
        differences: Auto class -> the largest absolute difference between the logits here and in the clean process,
            for every head that the config records.
    """

    audit: Audit
    differences: dict[str, float]


def verify_folder(folder: str | Path) -> Verification:
    """Audit a checkpoint, then `verify_checkpoint` it against the installed package, on `sample_inputs`.

    The checkpoint's code runs here only after the audit, and only in the other process.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        ValueError: the audit refuses a file, the weights do not fit the class, or the logits differ.
        RuntimeError: the checkpoint does not load or run on its own.
    """
    folder = Path(folder)
    audit = audit_checkpoint(folder)
    family, auto_classes = head_classes(folder)
    differences = {}
    for auto_class in auto_classes:
        checkpoint = load_checkpoint(folder, family, auto_class)
        model = checkpoint.model
        inputs = sample_inputs(model)
        with torch.no_grad():
            expected = model(**inputs)[0]
        differences[auto_class] = verify_checkpoint(folder, auto_class, inputs, expected, checkpoint.tokenizer)
    return Verification(audit, differences)
