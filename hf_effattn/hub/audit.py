"""Look into a checkpoint before anyone loads it: its code, what that imports, and that no weights are pickles.

The audit reads, it does not run. It makes sure that all code that a loaded checkpoint brings with it lies in the
folder as text, under the hashes that it gives, so that a person can read it and others can compare. It knows the usual
ways round this, not all that there may be, and it is no sandbox: what the code does is for the reader to judge.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..files import sha256
from .code_audit import CodeFile, own_names, read_code


#: Endings of weight files that are, or may hold, pickles or other formats that run code.
REFUSED_ENDINGS = (".bin", ".ckpt", ".h5", ".keras", ".msgpack", ".pickle", ".pkl", ".pt", ".pth")

#: What pictures of a card begin with, by their endings.
PICTURES = {".gif": b"GIF8", ".jpeg": b"\xff\xd8\xff", ".jpg": b"\xff\xd8\xff", ".png": b"\x89PNG\r\n\x1a\n"}

#: With a file of this name, and peft installed, transformers loads another repository in the place of this one.
ADAPTER = "adapter_config.json"

#: The code that the installed package gives to checkpoints.
MODELS = Path(__file__).parents[1] / "models"

#: Where git and downloads keep their own files, which are neither loaded nor pushed.
IGNORED_FOLDERS = ((".git",), (".cache", "huggingface"))


@dataclass(frozen=True)
class Audit:
    """What a checkpoint brings with it; paths are relative to its folder.

    Attributes:
        code: file -> its SHA-256, for every Python file.
        imports: package -> the places ``file:line`` that import it, the standard library included.
        weights: the safetensors files.
        foreign: files of code that are not, byte for byte, those of the installed hf_effattn.
    """

    code: dict[str, str]
    imports: dict[str, tuple[str, ...]]
    weights: tuple[str, ...]
    foreign: tuple[str, ...]


def audit_checkpoint(folder: str | Path) -> Audit:
    """Read every file of a checkpoint, and refuse what must not travel with it.

    Code may import its siblings, `code_rules.STANDARD` of the standard library, and the packages in
    `code_rules.REQUIRED`; those in `code_rules.OPTIONAL` inside a ``try`` that catches ImportError. It must not use
    what makes code at run time or brings it from elsewhere, as far as `code_rules` knows it. Every other file must be
    text, a picture, or weights in safetensors, and there must be such weights.

    Raises:
        FileNotFoundError: `folder` holds no checkpoint.
        ValueError: the message lists every offence with its file, and its line in code.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no config.json")
    paths = checkpoint_files(folder)
    code = _read_code_files({path: (folder / path).read_bytes() for path in paths if path.suffix == ".py"})
    offences = [f"{path}:{line}: {what}" for path, file in code.items() for line, what in file.offences]
    for path in paths:
        if path not in code:
            offences += [f"{path}: {what}" for what in _file_offences(folder, path, paths)]
    offences += [f"{path}: is a link to a folder; put the files there" for path in _linked_folders(folder)]
    weights = tuple(str(path) for path in paths if path.suffix == ".safetensors")
    if not weights:
        offences.append("config.json: there are no weights in safetensors beside it")
    if offences:
        raise ValueError(f"{folder} must not be published or run as it is:\n" + "\n".join(offences))
    hashes = {str(path): sha256(folder / path) for path in code}
    return Audit(
        code=hashes,
        imports=_places(code),
        weights=weights,
        foreign=tuple(path for path, digest in hashes.items() if own_code().get(path) != digest),
    )


@cache
def own_code() -> dict[str, str]:
    """The files that checkpoints of the installed hf_effattn may bring with them -> their SHA-256."""
    return {path.name: sha256(path) for path in MODELS.glob("*.py")}


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint, relative to its folder, in order."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in found if not _ignored(path))


def _linked_folders(folder: Path) -> list[Path]:
    """Links to folders, whose files `checkpoint_files` does not list, and transformers loads."""
    linked = [path for path in folder.rglob("*") if path.is_symlink() and path.is_dir()]
    return sorted(path.relative_to(folder) for path in linked if not _ignored(path.relative_to(folder)))


def _ignored(path: Path) -> bool:
    compiled = path.parent.name == "__pycache__" and path.suffix == ".pyc"
    return compiled or any(path.parts[: len(folder)] == folder for folder in IGNORED_FOLDERS)


def _read_code_files(sources: dict[Path, bytes]) -> dict[Path, CodeFile]:
    names = {path: own_names(source) for path, source in sources.items()}
    return {
        path: read_code(source, {other.stem: names[other] for other in sources if other.parent == path.parent})
        for path, source in sources.items()
    }


def _places(code: dict[Path, CodeFile]) -> dict[str, tuple[str, ...]]:
    places: dict[str, list[str]] = {}
    for path, file in code.items():
        for package, line in file.imports:
            places.setdefault(package, []).append(f"{path}:{line}")
    return {package: tuple(places[package]) for package in sorted(places)}


def _file_offences(folder: Path, path: Path, paths: list[Path]) -> Iterator[str]:
    """What is wrong with a file that is not code."""
    if path.suffix == ".safetensors":
        try:
            # Opening compares the lengths in the header with the size of the file.
            with safe_open(folder / path, framework="pt"):
                return
        except (OSError, SafetensorError) as error:
            yield f"is not a whole safetensors file: {error}"
        return
    content = (folder / path).read_bytes()
    if (kind := _kind_of_pickle(folder / path, content)) is not None:
        yield f"is {kind}, which runs code when it is loaded; save weights as safetensors, and remove it"
    elif path.suffix.lower() in REFUSED_ENDINGS:
        yield "has the name of weights that are not safetensors; save them as safetensors, and remove it"
    elif not _is_text(content) and not content.startswith(PICTURES.get(path.suffix.lower(), b"\0no picture")):
        yield "is neither text nor a picture nor safetensors; remove it"
    elif path.suffix == ".json":
        yield from _json_offences(path, content, paths)


def _kind_of_pickle(path: Path, content: bytes) -> str | None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "a zip file with a pickle" if any(n.endswith("data.pkl") for n in archive.namelist()) else None
    # Protocols 2 to 5 begin with their number; the earlier ones are text, which nothing here loads as a pickle.
    return "a pickle" if len(content) > 1 and content[0] == 0x80 and 2 <= content[1] <= 5 else None


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _json_offences(path: Path, content: bytes, paths: list[Path]) -> Iterator[str]:
    """References to code and to weights that do not lie beside the file."""
    try:
        fields = json.loads(content)
    except json.JSONDecodeError as error:
        yield f"is damaged: {error}"
        return
    if path.name.endswith(".index.json"):
        for shard in sorted(set(_strings(fields.get("weight_map") if isinstance(fields, dict) else fields))):
            if Path(shard).suffix != ".safetensors" or path.parent / shard not in paths:
                yield f"takes weights from {shard}, which is no safetensors file beside it"
    # The results of a run hold a config as well, but nobody loads a model from them.
    if path.name == ADAPTER:
        yield "has transformers load the model that it names, with that one's code; merge the adapter, and remove it"
    for name, value in _implementations(fields):
        if "/" in value:
            yield f"{name} takes code from another repository, {value}"
    for name, reference in _references(fields):
        repository, _, inside = reference.rpartition("--")
        module = f"{inside.split('.')[0]}.py"
        if repository:
            yield f"{name} takes code from another repository, {reference}"
        elif Path(module) not in paths and path.name.endswith("config.json"):
            yield f"{name} names {reference}, but there is no {module}: export the checkpoint"


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """What stands under each name of a JSON file, at any depth, as configs have others in them."""
    if isinstance(value, list):
        for inner in value:
            yield from _entries(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from _entries(inner)


def _implementations(value: Any) -> Iterator[tuple[str, str]]:
    """Which implementations of layers a JSON file asks for: names, or repositories of kernels."""
    for name, inner in _entries(value):
        if name.endswith("_implementation"):
            yield from ((name, text) for text in _strings(inner))


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """The classes that a JSON file names to be loaded, with the field that does."""
    for name, inner in _entries(value):
        if name == "auto_map":
            yield from ((name, text) for text in _strings(inner))
        elif name == "custom_pipelines" and isinstance(inner, dict):
            implemented = [task.get("impl") for task in inner.values() if isinstance(task, dict)]
            yield from ((name, text) for text in _strings(implemented))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
