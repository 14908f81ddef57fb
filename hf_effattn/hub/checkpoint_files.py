"""The files of a checkpoint, each under its hash, and what must not be among them.

Nothing is opened but regular files, nothing is read into memory whole but JSON of a bounded size, and nothing is run.
"""

import codecs
import hashlib
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from ..files import sha256


#: What transformers loads, and what tells of it: the names that may be in a checkpoint. Everything else is refused.
KNOWN = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|(processor_config|preprocessor_config)\.json"
    r"|(merges|vocab)\.txt|chat_template\.jinja|additional_chat_templates/[^/]+\.jinja"
    r"|[^/]+\.safetensors(\.index\.json)?"
    r"|((all|train|eval|predict|test)_)?results\.json|trainer_state\.json"
    r"|(LICEN[CS]E|NOTICE|CITATION)(\.(txt|md|cff))?|\.gitattributes"
    r"|([^/]+/)*[^/]+\.(md|py|(?i:gif|jpe?g|png))"
)

#: Endings of files that are, or may hold, pickles or other formats that run code.
PICKLES = re.compile(r".*\.(bin|ckpt|h5|joblib|keras|msgpack|npy|npz|pickle|pkl|pt|pt2|pte|pth|zip)", re.IGNORECASE)

#: What pictures of a card begin with, by their endings.
PICTURES = {".gif": b"GIF8", ".jpeg": b"\xff\xd8\xff", ".jpg": b"\xff\xd8\xff", ".png": b"\x89PNG\r\n\x1a\n"}

#: With a file of this name, and peft installed, transformers loads another repository in the place of this one.
ADAPTER = "adapter_config.json"

#: What `export_checkpoint` leaves to know its own files again; it stays where it was written.
EXPORT_RECORD = ".hf_effattn-export.json"

#: Where git and downloads keep their own files, which are neither loaded nor pushed.
PASSED_OVER = ((".git",), (".cache", "huggingface"), (EXPORT_RECORD,))

#: The most bytes of a JSON file: three times the largest tokenizers.
LARGEST_JSON = 100 * 2**20

#: What separates folders, names drives or must not be in a name on Windows.
WINDOWS = set('\\:*?"<>|')

CHUNK = 2**20


@dataclass
class CheckpointFiles:
    """What lies in a folder; paths are relative to it, with ``/``.

    Attributes:
        hashes: file -> SHA-256, for every file that may be there.
        json: the content of the JSON files.
        offences: what must not be there, each with its path.
    """

    hashes: dict[str, str] = field(default_factory=dict)
    json: dict[str, bytes] = field(default_factory=dict)
    offences: list[str] = field(default_factory=list)


def read_files(folder: Path, also: Collection[str] = ()) -> CheckpointFiles:
    """Hash every file of a checkpoint, and find those that must not be in one.

    Links, hidden files, special files, names that a terminal does not print or that are one name on some systems, and
    files of no known name are offences without being opened; then so is what is neither text nor a picture nor whole
    safetensors.

    Args:
        folder: the checkpoint.
        also: files of other names that are to be there, as paths in `folder`; hidden ones stay refused.
    """
    found = CheckpointFiles()
    also = {str(PurePosixPath(path)) for path in also}
    seen: dict[str, str] = {}
    for path in _walk(folder):
        name = path if path.isprintable() else ascii(path)
        # Two of these are one file, or overwrite one another, on systems that do not tell them apart.
        twin = seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if twin != path:
            found.offences.append(f"{name}: is the same name as {twin} on some systems; rename one")
        elif (why := _refused_by_name(folder, path, also)) is not None:
            found.offences.append(f"{name}: {why}")
        else:
            _read(folder, path, found)
    return found


def unchanged(folder: Path, hashes: dict[str, str]) -> None:
    """Raise ValueError if a file is not what its hash says any more."""
    changed = [path for path, digest in hashes.items() if not _has_hash(folder / path, digest)]
    if changed:
        raise ValueError(f"{folder} was changed after it was verified: {', '.join(changed)}; verify it again")


def _has_hash(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and sha256(path) == digest


def copy_verified(folder: Path, hashes: dict[str, str], target: Path) -> None:
    """Put the files under their hashes into `target`, so that what is loaded from there is what was verified.

    Weights, which run nothing, are not copied but linked.

    Raises:
        ValueError: a file was changed since its hash was taken.
    """
    for path, digest in hashes.items():
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".safetensors"):
            copy.symlink_to((folder / path).resolve())
            continue
        content = (folder / path).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{folder} was changed while it was verified: {path}; verify it again")
        copy.write_bytes(content)


def _walk(folder: Path) -> Iterator[str]:
    """Everything in a folder that is not itself a folder, in order; links are not followed."""
    found = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        below = PurePosixPath(os.path.relpath(parent, folder).replace(os.sep, "/"))
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = [name for name in folders if name not in linked and not _passed_over(below / name)]
        found += [below / name for name in files + linked]
    yield from sorted(str(path) for path in found if not _passed_over(path))


def _raise(error: OSError) -> None:
    raise error


def _passed_over(path: PurePosixPath) -> bool:
    compiled = path.parent.name == "__pycache__" and path.suffix == ".pyc"
    return compiled or any(path.parts[: len(parts)] == parts for parts in PASSED_OVER)


def _refused_by_name(folder: Path, path: str, also: Collection[str]) -> str | None:
    mode = os.lstat(folder / path).st_mode
    if stat.S_ISLNK(mode):
        kind = "folder" if (folder / path).is_dir() else "file"
        return f"is a link to a {kind}; put the {kind} itself there (a download: `hf download --local-dir`)"
    if not stat.S_ISREG(mode):
        return "is neither a file nor a folder; remove it"
    if not path.isprintable():
        return "has a name that a terminal does not show as it is; rename it"
    if set(path) & WINDOWS:
        return "has a name that is none, or leads elsewhere, on Windows; rename it"
    if any(part.startswith(".") for part in path.split("/")) and path != ".gitattributes":
        return "is hidden, and what is hidden is not published; move it out of the folder"
    if PurePosixPath(path).name.lower() == ADAPTER:
        return "has transformers load the model that it names, with that one's code; merge the adapter, and remove it"
    if PICKLES.fullmatch(path):
        return "may be a pickle, which runs code when it is loaded; save weights as safetensors, and remove it"
    if path not in also and not KNOWN.fullmatch(path):
        return f"is no file of a checkpoint; move it out of the folder, or say that it belongs there (--also {path})"
    return None


def _read(folder: Path, path: str, found: CheckpointFiles) -> None:
    """Hash a file, and see that it is of the kind that its name says."""
    file = folder / path
    suffix = PurePosixPath(path).suffix.lower()
    digest, is_text, start = _scan(file)
    found.hashes[path] = digest
    if suffix == ".safetensors":
        try:
            # Opening compares the lengths in the header, whose size is bounded, with the size of the file.
            with safe_open(file, framework="pt"):
                return
        except (OSError, SafetensorError) as error:
            found.offences.append(f"{path}: is not a whole safetensors file: {error}")
    elif suffix in PICTURES:
        if not start.startswith(PICTURES[suffix]) or zipfile.is_zipfile(file):
            found.offences.append(f"{path}: is not the picture that its name says; remove it")
    elif not is_text:
        found.offences.append(f"{path}: is neither text nor a picture nor safetensors; remove it")
    elif suffix == ".json":
        if file.stat().st_size > LARGEST_JSON:
            found.offences.append(f"{path}: is larger than {LARGEST_JSON >> 20} MiB, which no JSON of a model is")
        else:
            found.json[path] = file.read_bytes()
            if hashlib.sha256(found.json[path]).hexdigest() != digest:
                found.offences.append(f"{path}: changes while it is read")


def _scan(path: Path) -> tuple[str, bool, bytes]:
    """A file's SHA-256, whether it is text, and how it begins, without more than a chunk of it in memory."""
    digest, decoder, is_text, start = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), True, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            start = start or chunk[:16]
            digest.update(chunk)
            is_text = is_text and _goes_on_as_text(decoder, chunk)
    return digest.hexdigest(), is_text and _goes_on_as_text(decoder, b"", final=True), start


def _goes_on_as_text(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False) -> bool:
    try:
        return "\0" not in decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
