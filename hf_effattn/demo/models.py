"""The models of the page: found, audited, and loaded before anything starts."""

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

#: The checkpoint that a checkout of the repository has.
SHIPPED = Path(__file__).parents[2] / "model_cards" / "simpletron-reviews"

#: Auto class -> what its models do on the page.
TASKS = {"AutoModelForSequenceClassification": "classify", "AutoModelForCausalLM": "generate"}


@dataclass(frozen=True)
class LoadedModel:
    """A model of the page.

    Attributes:
        name: what the page calls it.
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
        """The most tokens that the model reads, or None if any number."""
        limit: int | None = self.model.config.max_input_length
        return limit

    @property
    def takes_pairs(self) -> bool:
        """Whether it classifies two texts together."""
        return self.model.config.pair_features is not None

    @property
    def has_wide_maps(self) -> bool:
        """Whether every token reads every token, so that a map is as wide as the text, and not as a memory."""
        return not isinstance(self.model.config, LunaConfig)

    @property
    def unit(self) -> str:
        """What a token is, in the plural."""
        return "tokens, which are bytes here" if is_byte_tokenizer(self.tokenizer) else "tokens"


def load_models(
    sources: Sequence[str], *, run_foreign_code: bool = False, also: Collection[str] = ()
) -> list[LoadedModel]:
    """Load checkpoints by the package's own classes, after an audit of all their files.

    Args:
        sources: folders, or names of repositories; without any, the checkpoint of a checkout of this repository.
        run_foreign_code: whether a checkpoint may have code that is not this package's own. Such code then runs in
            this process, without a sandbox, since the page shows what it does.
        also: files of other names that belong to the checkpoints, see `audit_checkpoint`.

    Raises:
        FileNotFoundError: there is no such checkpoint, or nothing to take without `sources`.
        ValueError: the audit refuses a file, or it is no text classifier and no decoder of the library.
    """
    sources = list(dict.fromkeys(sources)) or [default_source()]
    names = Counter(Path(source).resolve().name if Path(source).is_dir() else source for source in sources)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = []
    for source in sources:
        short = Path(source).resolve().name if Path(source).is_dir() else source
        with checkpoint_folder(source) as folder:
            task, checkpoint = _load(folder, source, run_foreign_code, also)
        if checkpoint.tokenizer is None:
            raise ValueError(f"{source} has no tokenizer, so it reads no texts: save one beside the model")
        name = short if names[short] == 1 else source
        model: Any = checkpoint.model
        loaded.append(LoadedModel(name, model.to(device), checkpoint.tokenizer, task))
    return loaded


def default_source() -> str:
    """The shipped checkpoint.

    Raises:
        FileNotFoundError: this is no checkout of the repository.
    """
    if not (SHIPPED / "config.json").is_file():
        raise FileNotFoundError(
            "name a checkpoint to try, a folder or the owner/name of a repository: hf-effattn demo FOLDER. Without "
            "one, the demo shows the trained model that comes with a checkout of hf_effattn, and this is none"
        )
    return str(SHIPPED)


@contextmanager
def checkpoint_folder(source: str) -> Iterator[Path]:
    """The folder of a checkpoint for a while, with its code; a download is copied, since its cache is made of links.

    Raises:
        FileNotFoundError: there is no such folder and no such repository.
    """
    if Path(source).is_dir():
        yield Path(source)
        return
    found = find_folder(source, code=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        yield Path(shutil.copytree(found, Path(scratch) / source))


def _load(folder: Path, source: str, run_foreign_code: bool, also: Collection[str]) -> tuple[str, Checkpoint]:
    """What a checkpoint does on the page, and the checkpoint."""
    family, auto_classes = head_classes(folder)
    if len(auto_classes) != 1 or auto_classes[0] not in TASKS:
        raise ValueError(
            f"{source} is for {', '.join(auto_classes)}, and the page shows text classifiers and decoders, which are "
            f"for {' or '.join(TASKS)}"
        )
    (auto_class,) = auto_classes
    audit = audit_checkpoint(folder, foreign_code=run_foreign_code, also=also)
    if not audit.foreign:
        return TASKS[auto_class], load_checkpoint(folder, family, auto_class)
    logger.warning("the code of others in %s runs with all your rights, your files and the network among them", source)
    return TASKS[auto_class], _load_foreign(folder, auto_class)


def _load_foreign(folder: Path, auto_class: str) -> Checkpoint:
    """A checkpoint by the code beside it; the Auto classes would take the installed package's."""
    named = read_strictly((folder / "config.json").read_bytes()).get("auto_map", {})
    if auto_class not in named:
        raise ValueError(f"{folder / 'config.json'} names no code for {auto_class}: remove the files of code")
    model_class: Any = get_class_from_dynamic_module(named[auto_class], str(folder))
    model = model_class.from_pretrained(folder, dtype="auto", use_safetensors=True)
    tokenizer = None
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return Checkpoint(model.eval(), tokenizer, auto_class)
