"""Look into a checkpoint before anyone loads it: is its code that of this package, and does all else lie beside it?

The audit reads, it does not run. Code is known by its bytes: a file is this package's own, or it is not, and then only
a reader can say what it does.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..files import sha256
from ..version import __version__
from .checkpoint_files import read_files
from .references import read_strictly, reference_offences


#: The code that the installed package gives to checkpoints.
MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True)
class Audit:
    """What a checkpoint brings with it; paths are relative to its folder.

    Attributes:
        files: file -> its SHA-256, for everything that is loaded or published.
        code: the part of it that is Python.
        weights: the safetensors files.
        foreign: files of code that are not, byte for byte, those of the installed hf_effattn.
    """

    files: dict[str, str]
    code: dict[str, str]
    weights: tuple[str, ...]
    foreign: tuple[str, ...]


def audit_checkpoint(folder: str | Path, *, foreign_code: bool = False, also: Collection[str] = ()) -> Audit:
    """Read every file of a checkpoint, and refuse what must not travel with it.

    Code must be that of the installed package, byte for byte. Every other file must have a name that belongs to a
    checkpoint, and be text, a picture, or weights in safetensors, of which there must be some. Configs, tokenizers
    and indexes, all JSON files, may name code and weights in the folder alone. Links, hidden files, pickles and
    adapters are refused. Memory is bounded whatever the files' size.

    Args:
        folder: the checkpoint.
        foreign_code: whether other code may be there; it is named in `Audit.foreign`, and what it does is for its
            reader to judge.
        also: files of other names that belong to the checkpoint, as paths in it.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        ValueError: the message lists every offence with its file.
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
        raise ValueError(_refusal(folder, offences, bool(foreign) and not foreign_code))
    return Audit(files=found.hashes, code=code, weights=weights, foreign=foreign)


def check_is_checkpoint(folder: Path) -> None:
    """Raise FileNotFoundError if `folder` is not there, or holds no config."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no config.json")


def _refusal(folder: Path, offences: list[str], names_foreign_code: bool) -> str:
    lines = [f"{folder} must not be published or run as it is:", *sorted(offences)]
    if names_foreign_code:
        lines.append(
            "None of this code was run. `hf-effattn export` writes the package's own beside the weights; "
            "--run-foreign-code is for code that you have read"
        )
    return "\n".join(lines)


@cache
def own_code() -> dict[str, str]:
    """The files that checkpoints of the installed hf_effattn may bring with them -> their SHA-256."""
    return {path.name: sha256(path) for path in MODELS.glob("*.py")}
