"""What the JSON files of a checkpoint have transformers load: code, weights and files, which must lie beside them."""

import json
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from ..families import list_families
from ..models.configuration_effattn import auto_map


#: The most levels of a JSON file; no config of a model has more than ten.
DEEPEST = 100

#: Fields by which a config has another file read in its place, or other weights.
ELSEWHERE = ("configuration_files", "fast_tokenizer_files", "transformers_weights")


def read_strictly(content: bytes) -> Any:
    """What a JSON file holds, if every reader finds the same in it.

    Raises:
        ValueError: it is damaged, names a field twice (readers differ in which they take), or is too deep.
    """
    try:
        fields = json.loads(content, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError(f"has more than {DEEPEST} levels") from None
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from error
    level = [fields]
    for _ in range(DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return fields
    raise ValueError(f"has more than {DEEPEST} levels")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return fields


def _inside(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def reference_offences(path: str, fields: Any, paths: Collection[str], foreign: Collection[str]) -> Iterator[str]:
    """What a JSON file names that does not lie beside it, or that is not what the code beside it is for.

    Args:
        path: the file, relative to its checkpoint.
        fields: its content.
        paths: every file of the checkpoint.
        foreign: those of them that are code of others.
    """
    # The results of a run hold a config as well, but nobody loads a model from them.
    is_config = path.lower().endswith("config.json")
    if path.lower().endswith(".index.json"):
        yield from _shard_offences(path, fields, paths)
    for name, value in _entries(fields):
        if name.endswith("_implementation"):
            for text in _strings(value):
                if "/" in text:
                    yield f"{name} takes code from another repository, {text!r}"
        elif is_config and (name in ELSEWHERE or name.endswith("_file")) and value is not None:
            yield f"{name} has another file read, {value!r}; remove the field"
        else:
            for text in _classes(name, value):
                yield from _class_offences(name, text, is_config, paths, foreign)


def _shard_offences(path: str, fields: Any, paths: Collection[str]) -> Iterator[str]:
    for shard in sorted(set(_strings(fields.get("weight_map") if isinstance(fields, dict) else fields))):
        beside = PurePosixPath(path).parent / shard
        if beside.suffix != ".safetensors" or str(beside) not in paths:
            yield f"takes weights from {shard!r}, which is no safetensors file beside it"


def _class_offences(
    name: str, reference: str, is_config: bool, paths: Collection[str], foreign: Collection[str]
) -> Iterator[str]:
    repository, _, inside = reference.rpartition("--")
    module = f"{inside.split('.')[0]}.py"
    if repository:
        yield f"{name} takes code from another repository, {reference!r}"
    elif is_config and module not in paths:
        yield f"{name} names {reference!r}, but there is no {module!r}: `hf-effattn export` writes the code"
    elif is_config and module not in foreign and reference not in own_classes():
        yield f"{name} names {reference!r}, which is no class that a checkpoint of hf_effattn is loaded with"


@cache
def own_classes() -> frozenset[str]:
    """What the configs of the installed package name to be loaded, ``module.Class``."""
    maps = (auto_map(family.config_class) for family in list_families())
    return frozenset(reference for classes in maps for reference in classes.values())


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """What stands under each name of a JSON file, at any depth, as configs have others in them."""
    if isinstance(value, dict):
        yield from value.items()
    for inner in _inside(value):
        yield from _entries(inner)


def _classes(name: str, value: Any) -> Iterator[str]:
    """The classes that a field names to be loaded."""
    if name == "auto_map":
        yield from _strings(value)
    elif name == "custom_pipelines" and isinstance(value, dict):
        yield from _strings([task.get("impl") for task in value.values() if isinstance(task, dict)])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in _inside(value):
        yield from _strings(inner)
