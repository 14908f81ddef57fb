"""Hashes the files of a checkpoint, and finds the files that must not be in one.

Only regular files are opened. Only JSON files of a bounded size are held in memory whole. Nothing is run.
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


#: The names that files of a checkpoint may have: files that transformers loads, and documents. Others are refused.
KNOWN_NAMES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|(processor_config|preprocessor_config)\.json"
    r"|(merges|vocab)\.txt|chat_template\.jinja|additional_chat_templates/[^/]+\.jinja"
    r"|[^/]+\.safetensors(\.index\.json)?"
    r"|((all|train|eval|predict|test)_)?results\.json|trainer_state\.json"
    r"|(LICEN[CS]E|NOTICE|CITATION)(\.(txt|md|cff))?|\.gitattributes"
    r"|([^/]+/)*[^/]+\.(md|py|(?i:gif|jpe?g|png))"
)

#: Names of files that may hold pickles or other formats that run code.
PICKLES = re.compile(r".*\.(bin|ckpt|h5|joblib|keras|msgpack|npy|npz|pickle|pkl|pt|pt2|pte|pth|zip)", re.IGNORECASE)

#: The first bytes of the pictures of a card, by the suffix of the file.
PICTURES = {".gif": b"GIF8", ".jpeg": b"\xff\xd8\xff", ".jpg": b"\xff\xd8\xff", ".png": b"\x89PNG\r\n\x1a\n"}

#: If a checkpoint has a file of this name and peft is installed, transformers loads another repository instead.
ADAPTER = "adapter_config.json"

#: `export_checkpoint` records its files here, so that a later export recognises them. The record is never published.
EXPORT_RECORD = ".hf_effattn-export.json"

#: Paths of git, of downloads and of exports. They are neither loaded nor pushed.
IGNORED_PATHS = ((".git",), (".cache", "huggingface"), (EXPORT_RECORD,))

#: The largest size of a JSON file in bytes, three times that of the largest tokenizers.
LARGEST_JSON = 100 * 2**20

#: Characters that separate folders, name drives, or are forbidden in names on Windows.
WINDOWS = set('\\:*?"<>|')

CHUNK = 2**20


@dataclass
class CheckpointFiles:
    """The files of a folder. Paths are relative to the folder, with ``/``.

    Attributes:
        hashes: SHA-256 of every file that may be there, by path.
        json: the content of the JSON files, by path.
        offences: one text for every file that must not be there, with its path and the reason.
    """

    hashes: dict[str, str] = field(default_factory=dict)
    json: dict[str, bytes] = field(default_factory=dict)
    offences: list[str] = field(default_factory=list)


def read_files(folder: Path, also: Collection[str] = ()) -> CheckpointFiles:
    """Hash every file of a checkpoint, and find the files that must not be in one.

    Some files are refused without being opened: links, hidden files, special files, unknown names, names that a
    terminal does not print, and names that are equal on some systems. Of the others, those that are neither text nor a
    picture nor whole safetensors are refused.

    Args:
        folder: the checkpoint.
        also: paths of further files, with other names, that belong to the checkpoint. Hidden files stay refused.
    """
    found = CheckpointFiles()
    also = {str(PurePosixPath(path)) for path in also}
    seen: dict[str, str] = {}
    for path in _walk(folder):
        name = path if path.isprintable() else ascii(path)
        # Some systems do not tell such names apart; there one file would overwrite the other.
        twin = seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if twin != path:
            found.offences.append(f"{name}: is the same name as {twin} on some systems; rename one")
        elif (why := _refused_by_name(folder, path, also)) is not None:
            found.offences.append(f"{name}: {why}")
        else:
            _read(folder, path, found)
    return found


def check_unchanged(folder: Path, hashes: dict[str, str]) -> None:
    """Raise ValueError if a file no longer has its hash."""
    changed = [path for path, digest in hashes.items() if not _has_hash(folder / path, digest)]
    if changed:
        raise ValueError(f"{folder} was changed after it was verified: {', '.join(changed)}; verify it again")


def _has_hash(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and sha256(path) == digest


def copy_verified(folder: Path, hashes: dict[str, str], target: Path) -> None:
    """Copy the files with these hashes to `target`, so that exactly the verified files are loaded from there.

    Weights are linked and not copied, because they run nothing.

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
    """Yield the paths of all files and links in a folder, in order. Links are not followed."""
    found = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        below = PurePosixPath(os.path.relpath(parent, folder).replace(os.sep, "/"))
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = [name for name in folders if name not in linked and not _is_ignored(below / name)]
        found += [below / name for name in files + linked]
    yield from sorted(str(path) for path in found if not _is_ignored(path))


def _raise(error: OSError) -> None:
    raise error


def _is_ignored(path: PurePosixPath) -> bool:
    compiled = path.parent.name == "__pycache__" and path.suffix == ".pyc"
    return compiled or any(path.parts[: len(parts)] == parts for parts in IGNORED_PATHS)


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
        return "has a name that is invalid or leads elsewhere on Windows; rename it"
    if any(part.startswith(".") for part in path.split("/")) and path != ".gitattributes":
        return "is hidden, and hidden files are not published; move it out of the folder"
    if PurePosixPath(path).name.lower() == ADAPTER:
        return "makes transformers load another model, with its code; merge the adapter, and remove the file"
    if PICKLES.fullmatch(path):
        return "may be a pickle, which runs code when it is loaded; save weights as safetensors, and remove it"
    if path not in also and not KNOWN_NAMES.fullmatch(path):
        return (
            f"is not a file of a checkpoint; move it out of the folder, or say that it belongs there (--also {path})"
        )
    return None


def _read(folder: Path, path: str, found: CheckpointFiles) -> None:
    """Hash a file, and check that it is of the kind that its name says."""
    file = folder / path
    suffix = PurePosixPath(path).suffix.lower()
    digest, is_text, start = _scan(file)
    found.hashes[path] = digest
    if suffix == ".safetensors":
        try:
            # `safe_open` compares the lengths in the header, whose size is bounded, with the size of the file.
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
            found.offences.append(
                f"{path}: is larger than {LARGEST_JSON >> 20} MiB, too large for a JSON file of a model"
            )
        else:
            found.json[path] = file.read_bytes()
            if hashlib.sha256(found.json[path]).hexdigest() != digest:
                found.offences.append(f"{path}: changes while it is read")


def _scan(path: Path) -> tuple[str, bool, bytes]:
    """Return the SHA-256 of a file, whether it is text, and its first bytes. Only a chunk is in memory at a time."""
    digest, decoder, is_text, start = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), True, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            start = start or chunk[:16]
            digest.update(chunk)
            is_text = is_text and _is_text_so_far(decoder, chunk)
    return digest.hexdigest(), is_text and _is_text_so_far(decoder, b"", final=True), start


def _is_text_so_far(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False) -> bool:
    try:
        return "\0" not in decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
