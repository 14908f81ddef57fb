"""Load a checkpoint of ours with the package's own classes, whether its folder has code or not."""

import copy
import math
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
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..families import Family, list_families
from ..models.configuration_effattn import EffAttnConfig
from .audit import check_is_checkpoint
from .references import read_strictly


#: By what factor, and by how many numbers more, a config may surpass its weights: small differences are told in detail
#: once they are loaded, but a few bytes of a config must not take all memory.
SLACK = (2, 10**7)


@dataclass(frozen=True)
class Checkpoint:
    """A model with its head and its tokenizer.

    Attributes:
        model: the model, in eval mode and in the dtype that it was saved in.
        tokenizer: its tokenizer, or None if there is none.
        auto_class: name of the Auto class that loads it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    auto_class: str


def find_folder(source: str | Path, revision: str | None = None, *, code: bool = False) -> Path:
    """The folder `source`, or that of a download if it is the name of a repository; with its Python files if `code`.

    Raises:
        FileNotFoundError: it is neither.
        ValueError: a revision of a folder.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"{source} is a folder, which has no revision {revision!r}")
        return Path(source)
    if Path(source).exists():
        raise FileNotFoundError(f"{source} is a file: name the folder of a checkpoint")
    try:
        validate_repo_id(str(source))
    except HFValidationError as error:
        raise FileNotFoundError(f"there is no folder {source}, and the name of a repository is owner/name") from error
    try:
        # Code that is not run need not be there.
        ignored = None if code else ["*.py"]
        return Path(snapshot_download(str(source), revision=revision, ignore_patterns=ignored))
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"the repository {source} has no revision {revision!r}") from error
    except (RepositoryNotFoundError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"there is no folder {source} here, and no repository was found: {error}") from error
    except RuntimeError as error:
        raise OSError(f"{source} cannot be downloaded: {error} Set HOME or HF_HOME to a folder of your own") from error


def head_classes(folder: str | Path) -> tuple[Family, list[str]]:
    """The family of a checkpoint, and the Auto classes of the heads that its config records.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        ValueError: the config is not one of ours, or does not say which head the weights are for.
    """
    check_is_checkpoint(Path(folder))
    path = Path(folder) / "config.json"
    try:
        config = read_strictly(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no config: it holds no fields")
    families = {family.model_type: family for family in list_families()}
    family = families.get(str(config.get("model_type")))
    if family is None:
        raise ValueError(f"{path} has model_type={config.get('model_type')!r}; hf_effattn has {list(families)}")
    heads = {name: auto_class for auto_class, name in family.class_names.items()}
    recorded = config.get("architectures") or []
    if not isinstance(recorded, list) or not recorded or not {str(name) for name in recorded} <= heads.keys():
        raise ValueError(f"{path} has architectures={recorded}; it must name some of {list(heads)}")
    return family, [heads[name] for name in dict.fromkeys(recorded)]


def load_config(folder: Path, family: Family) -> EffAttnConfig:
    """The config of a checkpoint.

    Raises:
        ValueError: it has unknown fields, values of a wrong type, or values that clash.
    """
    try:
        return family.config_class.from_pretrained(folder)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} is not a config of {family.name}: {error}") from error


def load_checkpoint(folder: Path, family: Family, auto_class: str) -> Checkpoint:
    """Load a folder's weights and tokenizer into the package's class for `auto_class`.

    Raises:
        FileNotFoundError: there are no weights in safetensors; others are never read.
        ValueError: the config is not valid or much larger than the weights, weights are missing, left over or of
            another shape, or the tokenizer has more tokens than the model.
    """
    held = _sizes(folder)
    _check_layers(folder, len(held))
    config = load_config(folder, family)
    model_class: Any = family.model_class(auto_class)
    wanted = sum(tensor.numel() for tensor in model_without_weights(model_class, config).state_dict().values())
    if wanted > SLACK[0] * sum(held) + SLACK[1]:
        raise ValueError(f"the config in {folder} comes to {wanted:,} numbers, and its weights are {sum(held):,}")
    # Nothing is ignored: the report below names what transformers' own error does not.
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
    """The image processor of a checkpoint, one of transformers' own, or None if there is none.

    Raises:
        ValueError: it is none of transformers'.
        ImportError: pillow is not installed.
    """
    if not (folder / "preprocessor_config.json").is_file():
        return None
    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def model_without_weights(model_class: Any, config: EffAttnConfig) -> PreTrainedModel:
    """A model of a config on torch's meta device, which has shapes alone and takes no memory."""
    with torch.device("meta"):
        return model_class(copy.deepcopy(config))


def _sizes(folder: Path) -> list[int]:
    """How many numbers every tensor of the weights has, read from the headers of the files."""
    sizes = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            sizes += [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118  # no mapping
    if not sizes:
        raise FileNotFoundError(f"{folder} has no model.safetensors, or nothing in it; other weights are never read")
    return sizes


def _check_layers(folder: Path, tensors: int) -> None:
    """Raise ValueError for more layers than tensors, before anything counts up to them."""
    config = read_strictly((folder / "config.json").read_bytes())
    for name, value in config.items():
        if name.startswith("num_") and name.endswith("_layers") and isinstance(value, int) and value > tensors:
            raise ValueError(f"{folder / 'config.json'} has {name}={value}, but there are only {tensors} weights")
