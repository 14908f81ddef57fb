"""This package as a repository of the ``kernels`` library, from which a local folder or the Hub can serve it.

from kernels import LocalLayerRepository, Mode, kernelize, use_kernel_mapping

folder = write_repository("linear-attention")
layer = LocalLayerRepository(folder, layer_name="LinearAttention")
with use_kernel_mapping({"LinearAttention": {"cpu": layer}}):
    model = kernelize(model, mode=Mode.TRAINING, device="cpu")
"""

import json
import shutil
from pathlib import Path

from . import INTERFACE
from .build import digest


#: The ``__init__.py`` of the variant, in which the ``kernels`` library looks for layers.
_ENTRY = '''"""Linear attention on compiled CPU kernels, built by the system's compiler when they are first called."""

from . import layers


__all__ = ["layers"]
'''


def write_repository(folder: str | Path) -> Path:
    """Write the kernels as a repository with one variant, ``torch-cpu``, and return the folder.

    Raises:
        FileExistsError: the folder holds something already.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give a new folder")
    variant = folder / "build" / "torch-cpu"
    own = Path(__file__).parent
    # The variant has the ``__init__.py`` above, and no use for this file.
    left_out = shutil.ignore_patterns("__pycache__", "__init__.py", Path(__file__).name)
    shutil.copytree(own, variant, ignore=left_out)
    (variant / "__init__.py").write_text(_ENTRY, encoding="utf-8")
    metadata = {
        "id": f"_linear_attention_cpu_{digest()}",
        "name": "linear-attention",
        "version": INTERFACE,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": "cpu"},
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    return folder
