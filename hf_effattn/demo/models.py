"""Finds, audits and loads the models of the page, before the page starts."""

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from ..hub.audit import audit_checkpoint
from ..hub.loading import Checkpoint, find_folder, head_classes, load_checkpoint
from ..hub.references import read_strictly
from ..models.configuration_luna import LunaConfig
from ..tokenization import is_byte_tokenizer


logger = logging.getLogger(__name__)

#: The trained checkpoint in a checkout of the repository; an installed package has none.
SHIPPED = Path(__file__).parents[2] / "model_cards" / "simpletron-reviews"

#: The task of a model on the page, by the Auto class that loads the model.
TASKS = {"AutoModelForSequenceClassification": "classify", "AutoModelForCausalLM": "generate"}


@dataclass(frozen=True)
class LoadedModel:
    """A model of the page.

    Attributes:
        name: the name that the page shows.
        model: the model, in eval mode.
        tokenizer: its tokenizer.
        task: ``"classify"`` or ``"generate"``.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: str

    @property
    def limit(self) -> int | None:
        """The longest text that the model reads, in tokens, or None if there is no limit."""
        limit: int | None = self.model.config.max_input_length
        return limit

    @property
    def takes_pairs(self) -> bool:
        """Whether the model classifies two texts together."""
        return self.model.config.pair_features is not None

    @property
    def has_wide_maps(self) -> bool:
        """Whether attention maps are as wide as the text. Tokens of Luna and ConvLuna read a memory instead."""
        return not isinstance(self.model.config, LunaConfig)

    @property
    def unit(self) -> str:
        """The word for tokens in messages; it says if the tokens are bytes."""
        return "tokens, which are bytes here" if is_byte_tokenizer(self.tokenizer) else "tokens"


def load_models(
    sources: Sequence[str], *, run_foreign_code: bool = False, also: Collection[str] = ()
) -> list[LoadedModel]:
    """Audit all files of the checkpoints, then load them with the classes of the package.

    Args:
        sources: folders or names of repositories. If there are none, the shipped checkpoint is loaded.
        run_foreign_code: accept checkpoints with code that is not of this package. Such a checkpoint is loaded with
            its own code, which runs in this process without a sandbox.
        also: paths of further files that belong to the checkpoints, see `audit_checkpoint`.

    Raises:
        FileNotFoundError: a checkpoint does not exist, or there are no `sources` and no shipped checkpoint.
        ValueError: the audit refuses a file; or the model is neither a text classifier nor a decoder of this library;
            or the checkpoint has no tokenizer.
    """
    sources = list(dict.fromkeys(sources)) or [default_source()]
    short_names = [Path(source).resolve().name if Path(source).is_dir() else source for source in sources]
    times = Counter(short_names)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = []
    for source, short in zip(sources, short_names, strict=True):
        with checkpoint_folder(source) as folder:
            task, checkpoint = _load(folder, source, run_foreign_code, also)
        if checkpoint.tokenizer is None:
            raise ValueError(f"{source} has no tokenizer, so it reads no texts: save one beside the model")
        name = short if times[short] == 1 else source
        model: Any = checkpoint.model
        loaded.append(LoadedModel(name, model.to(device), checkpoint.tokenizer, task))
    return loaded


def default_source() -> str:
    """Return the folder of the shipped checkpoint.

    Raises:
        FileNotFoundError: the package does not run from a checkout of the repository.
    """
    if not (SHIPPED / "config.json").is_file():
        raise FileNotFoundError(
            "name a checkpoint to try, a folder or the owner/name of a repository: hf-effattn demo FOLDER. Without "
            "an argument the demo shows the trained model of a checkout, and this package does not run from one"
        )
    return str(SHIPPED)


@contextmanager
def checkpoint_folder(source: str) -> Iterator[Path]:
    """Give the folder of a checkpoint, with its code. A download is copied, because the audit refuses links.

    Raises:
        FileNotFoundError: `source` is neither a folder nor a repository.
    """
    if Path(source).is_dir():
        yield Path(source)
        return
    found = find_folder(source, code=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        yield Path(shutil.copytree(found, Path(scratch) / source))


def _load(folder: Path, source: str, run_foreign_code: bool, also: Collection[str]) -> tuple[str, Checkpoint]:
    """Return the task of a checkpoint on the page, and the loaded checkpoint."""
    family, auto_classes = head_classes(folder)
    if len(auto_classes) != 1 or auto_classes[0] not in TASKS:
        raise ValueError(
            f"{source} is for {', '.join(auto_classes)}, and the page shows text classifiers and decoders only: "
            f"checkpoints for {' or '.join(TASKS)}"
        )
    (auto_class,) = auto_classes
    audit = audit_checkpoint(folder, foreign_code=run_foreign_code, also=also)
    if not audit.foreign:
        return TASKS[auto_class], load_checkpoint(folder, family, auto_class)
    logger.warning(
        "the foreign code in %s runs with all your rights, and can reach your files and the network", source
    )
    return TASKS[auto_class], _load_foreign(folder, auto_class)


def _load_foreign(folder: Path, auto_class: str) -> Checkpoint:
    """Load a checkpoint with its own code. The Auto classes would load it with the code of the installed package."""
    named = read_strictly((folder / "config.json").read_bytes()).get("auto_map", {})
    if auto_class not in named:
        raise ValueError(f"{folder / 'config.json'} names no code for {auto_class}: remove the Python files")
    model_class: Any = get_class_from_dynamic_module(named[auto_class], str(folder))
    model = model_class.from_pretrained(folder, dtype="auto", use_safetensors=True)
    tokenizer = None
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return Checkpoint(model.eval(), tokenizer, auto_class)
