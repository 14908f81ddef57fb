"""Checks what the JSON files of a checkpoint refer to: code, weights and files must lie beside them."""

import json
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from ..families import list_families
from ..models.configuration_effattn import auto_map


#: The largest number of levels in a JSON file. No config of a model has more than ten.
MAX_LEVELS = 100

#: Fields of a config that make transformers read other configs, tokenizers or weights.
REDIRECTING_FIELDS = ("configuration_files", "fast_tokenizer_files", "transformers_weights")


def read_strictly(content: bytes) -> Any:
    """Parse a JSON file, and refuse content that different readers would understand differently.

    Raises:
        ValueError: the file is damaged, names a field twice (readers differ in which one they take), or is too deep.
    """
    try:
        fields = json.loads(content, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError(f"has more than {MAX_LEVELS} levels") from None
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from error
    level = [fields]
    for _ in range(MAX_LEVELS):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return fields
    raise ValueError(f"has more than {MAX_LEVELS} levels")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def _inside(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def reference_offences(path: str, fields: Any, paths: Collection[str], foreign: Collection[str]) -> Iterator[str]:
    """Yield one text for each refused reference: it leads out of the folder, or to a class that loads no checkpoint.

    Args:
        path: path of the JSON file in the checkpoint.
        fields: the content of the file.
        paths: the paths of all files of the checkpoint.
        foreign: the paths of foreign code among them.
    """
    # The results of a run hold a config as well, but no model is loaded from them.
    is_config = path.lower().endswith("config.json")
    if path.lower().endswith(".index.json"):
        yield from _shard_offences(path, fields, paths)
    for name, value in _entries(fields):
        if name.endswith("_implementation"):
            for text in _strings(value):
                if "/" in text:
                    yield f"{name} takes code from another repository, {text!r}"
        elif is_config and (name in REDIRECTING_FIELDS or name.endswith("_file")) and value is not None:
            yield f"{name} makes transformers read another file, {value!r}; remove the field"
        else:
            for text in _classes(name, value):
                yield from _class_offences(name, text, is_config, paths, foreign)


def _shard_offences(path: str, fields: Any, paths: Collection[str]) -> Iterator[str]:
    for shard in sorted(set(_strings(fields.get("weight_map") if isinstance(fields, dict) else fields))):
        beside = PurePosixPath(path).parent / shard
        if beside.suffix != ".safetensors" or str(beside) not in paths:
            yield f"takes weights from {shard!r}, which is not a safetensors file beside it"


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
        yield f"{name} names {reference!r}, which is not a class that loads a checkpoint of hf_effattn"


@cache
def own_classes() -> frozenset[str]:
    """Return the classes, ``module.Class``, that the configs of the installed package name in their ``auto_map``."""
    maps = (auto_map(family.config_class) for family in list_families())
    return frozenset(reference for classes in maps for reference in classes.values())


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every name with its value, at any depth, because configs contain other configs."""
    if isinstance(value, dict):
        yield from value.items()
    for inner in _inside(value):
        yield from _entries(inner)


def _classes(name: str, value: Any) -> Iterator[str]:
    """Yield the classes that a field tells transformers to load."""
    if name == "auto_map":
        yield from _strings(value)
    elif name == "custom_pipelines" and isinstance(value, dict):
        yield from _strings([task.get("impl") for task in value.values() if isinstance(task, dict)])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in _inside(value):
        yield from _strings(inner)
