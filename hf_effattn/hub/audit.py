"""Audits a checkpoint before it is loaded: its code must be that of this package, and its files must be complete.

The audit reads files and runs nothing. It recognises code by its bytes: either a file equals a file of this package,
or the file is foreign, and only a person who reads it can say what it does.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..files import sha256
from ..version import __version__
from .checkpoint_files import read_files
from .references import read_strictly, reference_offences


#: The folder with the code that the installed package copies into checkpoints.
MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True)
class Audit:
    """The files of a checkpoint. Paths are relative to its folder.

    Attributes:
        files: SHA-256 of every file that is loaded or published, by path.
        code: the Python files among them.
        weights: the paths of the safetensors files.
        foreign: the paths of Python files that differ from those of the installed hf_effattn.
    """

    files: dict[str, str]
    code: dict[str, str]
    weights: tuple[str, ...]
    foreign: tuple[str, ...]


def audit_checkpoint(folder: str | Path, *, foreign_code: bool = False, also: Collection[str] = ()) -> Audit:
    """Read every file of a checkpoint, and refuse files that must not be published or run.

    - Code must equal the code of the installed package, byte for byte.
    - Every other file must have a name that belongs to a checkpoint, and must be text, a picture, or weights in
      safetensors. There must be weights.
    - JSON files (configs, tokenizers, indexes) may name code and weights inside the folder only.
    - Links, hidden files, pickles and adapters are refused.

    Memory stays bounded for files of any size.

    Args:
        folder: the checkpoint.
        foreign_code: accept other code as well. `Audit.foreign` names its files; the caller has to judge them.
        also: paths of further files, with other names, that belong to the checkpoint.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint, or a file of `also` is missing.
        ValueError: files are refused. The message lists every file with the reason.
    """
    folder = Path(folder)
    check_is_checkpoint(folder)
    if absent := sorted(path for path in also if not (folder / path).is_file()):
        raise FileNotFoundError(f"{folder} has no {', '.join(absent)}")
    found = read_files(folder, also)
    code = {path: digest for path, digest in found.hashes.items() if path.endswith(".py")}
    foreign = tuple(path for path, digest in code.items() if own_code().get(path) != digest)
    offences = [*found.offences]
    for path, content in found.json.items():
        try:
            offences += [
                f"{path}: {what}"
                for what in reference_offences(path, read_strictly(content), found.hashes.keys(), foreign)
            ]
        except ValueError as error:
            offences.append(f"{path}: {error}")
    weights = tuple(path for path in found.hashes if path.endswith(".safetensors"))
    if not weights:
        offences.append("config.json: there are no weights in safetensors beside it")
    if not foreign_code:
        offences += [f"{path}: is not code of hf_effattn {__version__}" for path in foreign]
    if offences:
        raise ValueError(_refusal_message(folder, offences, bool(foreign) and not foreign_code))
    return Audit(files=found.hashes, code=code, weights=weights, foreign=foreign)


def check_is_checkpoint(folder: Path) -> None:
    """Raise FileNotFoundError if `folder` does not exist or has no config."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a checkpoint: it has no config.json")


def _refusal_message(folder: Path, offences: list[str], names_foreign_code: bool) -> str:
    lines = [f"{folder} must not be published or run as it is:", *sorted(offences)]
    if names_foreign_code:
        lines.append(
            "None of this code was run. `hf-effattn export` writes the package's own code beside the weights. If you "
            "have read the foreign code, --run-foreign-code runs it"
        )
    return "\n".join(lines)


@cache
def own_code() -> dict[str, str]:
    """Return the SHA-256 of every code file that the installed hf_effattn copies into checkpoints, by name."""
    return {path.name: sha256(path) for path in MODELS.glob("*.py")}
