"""Verifies that a checkpoint folder is complete: a clean offline process without hf_effattn must load it."""

import logging
import shutil
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from .audit import Audit, audit_checkpoint
from .checkpoint_files import copy_verified
from .inputs import sample_inputs
from .isolation import find_sandbox, run_alone
from .loading import head_classes, load_checkpoint


logger = logging.getLogger(__name__)

#: Tolerance for rounding, relative to the largest logit. The clean process has no compiled kernels and sums in another
#: order.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

#: The text that the tokenizers are compared on.
TEXT = "[MAX 2 9 ] A film to remember, für immer."

#: Seconds that the clean process may take.
TIME_LIMIT = 600.0


def verify_checkpoint(
    folder: str | Path,
    auto_class: str,
    inputs: dict[str, torch.Tensor],
    expected: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    run_foreign_code: bool = False,
    also: Collection[str] = (),
    time_limit: float = TIME_LIMIT,
) -> float:
    """Audit `folder`, load it through `auto_class` in a clean process without hf_effattn or network, compare logits.

    The clean process runs a copy of the files that the audit has read. If the checkpoint has no code and its config
    names none, the process loads it with the installed hf_effattn.

    Args:
        folder: a checkpoint.
        auto_class: name of the Auto class to load through, such as ``"AutoModelForSequenceClassification"``.
        inputs: the inputs of the model.
        expected: the logits of the model in this process.
        tokenizer: the tokenizer of the folder, loaded in this process. If given, both processes must tokenize a text
            equally.
        run_foreign_code: whether foreign code may run. It runs in a sandbox without network and home, see `isolation`.
            If the system allows no sandbox, a warning says so.
        also: paths of further files, with other names, that belong to the checkpoint, see `audit_checkpoint`.
        time_limit: seconds for the clean process. After it, the process and all that it started are ended.

    Returns:
        The largest absolute difference between the logits of the clean process and `expected`.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        RuntimeError: the checkpoint does not load or run there. The message holds the error of the clean process.
        TimeoutError: the clean process takes longer than `time_limit`.
        ValueError: the audit refuses a file; the logits have another shape, or differ by more than `TOLERANCE`; or the
            tokens differ.
    """
    audit = audit_checkpoint(folder, foreign_code=run_foreign_code, also=also)
    return _compare(Path(folder), audit, auto_class, inputs, expected, tokenizer, time_limit)


def _compare(
    folder: Path,
    audit: Audit,
    auto_class: str,
    inputs: dict[str, torch.Tensor],
    expected: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase | None,
    time_limit: float,
) -> float:
    """Do the work of `verify_checkpoint` after the audit."""
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary).resolve()
        copy_verified(folder, audit.files, scratch / "checkpoint")
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, scratch / "inputs.safetensors")
        if tokenizer is not None:
            (scratch / "text").write_text(TEXT, encoding="utf-8")
        program = shutil.copy(Path(__file__).with_name("clean_load.py"), scratch)
        command = [sys.executable, "-I", str(program), auto_class, "checkpoint" if audit.code else "package"]
        try:
            status, printed = run_alone([*_sandbox(folder, audit, scratch), *command], scratch, time_limit)
        except TimeoutError as error:
            raise TimeoutError(f"{folder} does not load through {auto_class} in time: {error}") from error
        if status != 0:
            raise RuntimeError(f"{folder} does not load through {auto_class} in a clean process:\n{printed}")
        outputs = _outputs(folder, scratch / "outputs.safetensors")
    if tokenizer is not None and outputs["token_ids"].tolist() != tokenizer(TEXT)["input_ids"]:
        raise ValueError(f"the tokenizer of {folder} gives other tokens in a clean process")
    return _difference(folder, outputs["logits"], expected.detach())


def _outputs(folder: Path, path: Path) -> dict[str, torch.Tensor]:
    """Read the outputs of the clean process. Foreign code may have ended it early, or have written something else."""
    if path.is_symlink() or not path.is_file():
        raise RuntimeError(f"{folder} ends the clean process before it writes logits")
    try:
        outputs = load_file(path)
    except SafetensorError as error:
        raise RuntimeError(f"{folder} writes damaged logits in the clean process: {error}") from error
    return {"logits": torch.empty(0), "token_ids": torch.empty(0)} | outputs


def _sandbox(folder: Path, audit: Audit, scratch: Path) -> tuple[str, ...]:
    """Return the beginning of the command of the clean process: for foreign code a sandbox, if the system has one."""
    if not audit.foreign:
        return ()
    found = find_sandbox(scratch, [(folder / path).resolve() for path in audit.weights])
    if found is None:
        logger.warning(
            "the foreign code in %s runs with all your rights, and can reach your files and the network: this system "
            "has neither bubblewrap nor user namespaces for a sandbox",
            folder,
        )
    return found or ()


def _difference(folder: Path, logits: torch.Tensor, expected: torch.Tensor) -> float:
    if logits.shape != expected.shape or logits.dtype != expected.dtype:
        raise ValueError(
            f"the logits of {folder} are {logits.dtype} {list(logits.shape)} in a clean process, and here "
            f"{expected.dtype} {list(expected.shape)}"
        )
    difference = float((logits.double() - expected.double()).abs().max())
    tolerance = TOLERANCE[expected.dtype] * max(1.0, float(expected.abs().max()))
    if not difference <= tolerance:
        raise ValueError(f"the logits of {folder} differ by {difference:.3g} in a clean process, over {tolerance:.3g}")
    return difference


@dataclass(frozen=True)
class Verification:
    """The result of `verify_folder`.

    Attributes:
        audit: the files with their hashes, the code among them, and the weight files.
        differences: for every head that the config records, by its Auto class: the largest absolute difference between
            the logits of this process and those of the clean process.
    """

    audit: Audit
    differences: dict[str, float]


def verify_folder(
    folder: str | Path,
    *,
    run_foreign_code: bool = False,
    also: Collection[str] = (),
    time_limit: float = TIME_LIMIT,
) -> Verification:
    """Audit a checkpoint, then compare its logits on `sample_inputs` with those of the installed package.

    The code of the checkpoint runs only after the audit, and only in the clean process, see `verify_checkpoint`.

    Args:
        folder: a checkpoint.
        run_foreign_code: see `verify_checkpoint`.
        also: see `verify_checkpoint`.
        time_limit: see `verify_checkpoint`; it applies to each head.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        ValueError: the audit refuses a file, the weights do not fit the class, or the logits differ.
        RuntimeError: the checkpoint does not load or run in the clean process.
        TimeoutError: the clean process takes too long.
    """
    folder = Path(folder)
    audit = audit_checkpoint(folder, foreign_code=run_foreign_code, also=also)
    family, auto_classes = head_classes(folder)
    differences = {}
    for auto_class in auto_classes:
        checkpoint = load_checkpoint(folder, family, auto_class)
        inputs = sample_inputs(checkpoint.model)
        with torch.no_grad():
            expected = checkpoint.model(**inputs)[0]
        differences[auto_class] = _compare(
            folder, audit, auto_class, inputs, expected, checkpoint.tokenizer, time_limit
        )
    return Verification(audit, differences)
