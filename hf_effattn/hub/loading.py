"""Loads a checkpoint of ours with the classes of the package. Code in the folder is not run."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..families import Family, find, list_families
from ..models.configuration_effattn import EffAttnConfig
from .audit import check_is_checkpoint
from .references import read_strictly


#: A config may describe at most FACTOR times as many numbers as the weights have, and EXTRA more. transformers names
#: small differences in detail after loading; but a few bytes of a config must not use up the memory.
FACTOR, EXTRA = 2, 10**7


@dataclass(frozen=True)
class Checkpoint:
    """A model with its head and its tokenizer.

    Attributes:
        model: the model, in eval mode and in the dtype that it was saved in.
        tokenizer: the tokenizer, or None if the checkpoint has none.
        auto_class: name of the Auto class that loads the model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    auto_class: str


def find_folder(source: str | Path, revision: str | None = None, *, code: bool = False) -> Path:
    """Return `source` if it is a folder; if it is the name of a repository, download the repository.

    Args:
        source: a folder, or the name of a repository.
        revision: commit, branch or tag of the repository.
        code: download the Python files as well. They are left out by default, because they are never run here.

    Raises:
        FileNotFoundError: `source` is neither a folder nor a repository.
        ValueError: `source` is a folder, and a revision is given.
        OSError: the repository cannot be downloaded.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"{source} is a folder, which has no revision {revision!r}")
        return Path(source)
    if Path(source).exists():
        raise FileNotFoundError(f"{source} is a file: name the folder of a checkpoint")
    try:
        left_out = None if code else ["*.py"]
        return Path(snapshot_download(str(source), revision=revision, ignore_patterns=left_out))
    except HFValidationError as error:
        raise FileNotFoundError(f"there is no folder {source}, and the name of a repository is owner/name") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"the repository {source} has no revision {revision!r}") from error
    except (RepositoryNotFoundError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"there is no folder {source} here, and no repository was found: {error}") from error
    except RuntimeError as error:
        raise OSError(f"{source} cannot be downloaded: {error} Set HOME or HF_HOME to a folder of your own") from error


def head_classes(folder: str | Path) -> tuple[Family, list[str]]:
    """Return the family of a checkpoint, and the Auto classes of the heads that its config records.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        ValueError: the config is not one of ours, or does not record the head of the weights.
    """
    check_is_checkpoint(Path(folder))
    path = Path(folder) / "config.json"
    try:
        config = read_strictly(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a config: it is not a JSON object with fields")
    model_type, known = config.get("model_type"), [family.model_type for family in list_families()]
    if model_type not in known:
        raise ValueError(f"{path} has model_type={model_type!r}; hf_effattn has {known}")
    family = find(model_type)
    heads = {name: auto_class for auto_class, name in family.class_names.items()}
    recorded = config.get("architectures") or []
    if not isinstance(recorded, list) or not recorded or not {str(name) for name in recorded} <= heads.keys():
        raise ValueError(f"{path} has architectures={recorded}; it must name some of {list(heads)}")
    return family, [heads[name] for name in dict.fromkeys(recorded)]


def load_config(folder: Path, family: Family) -> EffAttnConfig:
    """Load the config of a checkpoint.

    Raises:
        ValueError: the config has unknown fields, values of a wrong type, or values that clash.
    """
    try:
        return family.config_class.from_pretrained(folder)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} is not a config of {family.name}: {error}") from error


def load_checkpoint(folder: Path, family: Family, auto_class: str) -> Checkpoint:
    """Load the weights into the package's class for `auto_class`, and load the tokenizer.

    Raises:
        FileNotFoundError: there are no weights in safetensors. Weights in other formats are never read.
        ValueError: the config is not valid, or describes a model that is much larger than the weights; weights are
            missing, unexpected or have another shape; or the tokenizer has more tokens than the model.
    """
    sizes = _tensor_sizes(folder)
    _check_layers(folder, len(sizes))
    config = load_config(folder, family)
    model_class: Any = family.model_class(auto_class)
    numbers = sum(tensor.numel() for tensor in model_without_weights(model_class, config).state_dict().values())
    if numbers > FACTOR * sum(sizes) + EXTRA:
        raise ValueError(f"the config in {folder} describes {numbers:,} numbers, but the weights have {sum(sizes):,}")
    # Mismatched sizes are not ignored: the report below names them better than the error of transformers.
    options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, report = model_class.from_pretrained(folder, config=config, dtype="auto", **options)
    if problems := {kind: sorted(names) for kind, names in report.items() if names}:
        raise ValueError(f"the weights in {folder} are not those of {model_class.__name__}: {problems}")
    tokenizer = None
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"the tokenizer in {folder} has {len(tokenizer)} tokens, but the model's vocab_size is "
                f"{config.vocab_size}"
            )
    return Checkpoint(model.eval(), tokenizer, auto_class)


def load_image_processor(folder: Path) -> BaseImageProcessor | None:
    """Load the image processor of a checkpoint, or return None if there is none.

    Raises:
        ValueError: the image processor is not one of transformers.
        ImportError: pillow is not installed.
    """
    if not (folder / "preprocessor_config.json").is_file():
        return None
    processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    return processor


def model_without_weights(
    model_class: Callable[[EffAttnConfig], PreTrainedModel], config: EffAttnConfig
) -> PreTrainedModel:
    """Make the model of a config on torch's meta device, where tensors have shapes and take no memory."""
    with torch.device("meta"):
        return model_class(copy.deepcopy(config))


def _tensor_sizes(folder: Path) -> list[int]:
    """Return how many numbers each tensor of the weights has, read from the headers of the files."""
    sizes = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            sizes += [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118  # no mapping
    if not sizes:
        raise FileNotFoundError(
            f"{folder} has no weights in model.safetensors; weights in other formats are never read"
        )
    return sizes


def _check_layers(folder: Path, tensors: int) -> None:
    """Raise ValueError if the config has more layers than there are tensors, before a loop over the layers starts."""
    config = read_strictly((folder / "config.json").read_bytes())
    for name, value in config.items():
        if name.startswith("num_") and name.endswith("_layers") and isinstance(value, int) and value > tensors:
            raise ValueError(f"{folder / 'config.json'} has {name}={value}, but there are only {tensors} weights")
