"""Which releases of torch and transformers hf_effattn is for, and the check that says so early.

A checkpoint carries this file, and is opened for years by whatever its readers have installed. So there is no upper
bound: what came after the tests is used with a warning, and fails only where something that the models need is gone.
"""

from collections.abc import Iterable
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers.utils import logging


#: The version of this code: that of the package, and of the checkpoints that it is copied into.
CODE_VERSION = "0.1.0"

#: The oldest release of every package whose behaviour the models rely on, and the newest that the tests ran with.
SUPPORTED = {
    "torch": ("2.11", "2.14"),
    "transformers": ("5.14", "5.24"),
}

#: What the models call that torch makes no promise about, or that came with one of its late releases.
NEEDED_OF_TORCH = (
    "_C._are_functorch_transforms_active",
    "autograd.forward_ad",
    "compiler.assume_constant_result",
    "compiler.is_exporting",
    "library.custom_op",
    "nn.functional.scaled_dot_product_attention",
)


def check_versions(installed: dict[str, str]) -> None:
    """Refuse releases below the supported window, and warn once of those above it.

    Args:
        installed: package -> version. The comparison looks at the release alone, so that local builds such as
            ``2.13.0+cpu`` and development versions of a supported release pass. Above the window a patch of the newest
            tested release passes as well.

    Raises:
        ImportError: a release below the window.
    """
    beyond = []
    for package, (lowest, newest) in SUPPORTED.items():
        release = Version(installed[package]).release
        if release < Version(lowest).release:
            raise ImportError(
                f"hf_effattn needs {package}>={lowest}, but {package} {installed[package]} is installed. "
                f'Install a later release with: pip install --upgrade "{package}>={lowest}"'
            )
        if release[:2] > Version(newest).release:
            beyond.append(f"{package} {installed[package]} (tested: {lowest} to {newest})")
    if beyond:
        # Of transformers' own tree, so that its verbosity counts; and of one logger, since every checkpoint with code
        # brings a copy of this module, and once is enough.
        logging.get_logger("transformers.hf_effattn").warning_once(
            f"hf_effattn {CODE_VERSION} was not tested with {' and '.join(beyond)}. Should something "
            "break, look for a later hf_effattn, or install a tested release."
        )


def check_names(package: str, owner: Any, names: Iterable[str]) -> None:
    """Refuse a release that lacks something that the models call, or that calls something of theirs.

    Args:
        package: ``"torch"`` or ``"transformers"``.
        owner: the module or class that has to have the names.
        names: attributes, and attributes of attributes with dots.

    Raises:
        ImportError: the first name that is missing, and which releases have it.
    """
    for name in names:
        found = owner
        for part in name.split("."):
            if not hasattr(found, part):
                version = {"torch": torch, "transformers": transformers}[package].__version__
                lowest, newest = SUPPORTED[package]
                raise ImportError(
                    f"hf_effattn {CODE_VERSION} needs {owner.__name__}.{name}, which {package} {version} does not "
                    f"have. It was tested with {package} {lowest} to {newest}: install one of these, or look for a "
                    "later hf_effattn."
                )
            found = getattr(found, part)


def note_other_code(written_by: str | None, module: str) -> None:
    """Say so where a checkpoint is read by another version of the code than wrote it.

    A checkpoint's own code is read with it, so that it is of one version; but with the package imported, the Auto
    classes take the package's.

    Args:
        written_by: what the checkpoint's config says; None for the first ones, which say nothing.
        module: where the code that reads it comes from.
    """
    if written_by in (None, CODE_VERSION):
        return
    source = "the checkpoint's own" if module.startswith("transformers_modules.") else "the installed package's"
    logging.get_logger("transformers.hf_effattn").warning_once(
        f"The checkpoint was written by hf_effattn {written_by} and is read by {source} code, {CODE_VERSION}. For the "
        "code that it brings along, load it with trust_remote_code=True in a process that does not import hf_effattn."
    )


check_versions({"torch": torch.__version__, "transformers": transformers.__version__})
check_names("torch", torch, NEEDED_OF_TORCH)
