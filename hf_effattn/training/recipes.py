"""Recipes: the arguments of a training script in a YAML or JSON file, which the command line may override."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_recipe(parser: HfArgumentParser, arguments: Sequence[str]) -> tuple[Any, ...]:
    """The parser's dataclasses, filled from ``--recipe FILE`` and then from the rest of the command line.

    Args:
        parser: for the dataclasses of the script. A field without a default has to be on the command line.
        arguments: the command line without the program's name.

    Raises:
        ValueError: a recipe that is not a mapping, or one with a key that the script does not know.
        SystemExit: argparse's own, for a command line that does not parse.
    """
    option: dict[str, Any] = {"type": Path, "help": "YAML or JSON file with further arguments of this script"}
    # The recipe is read first, because its values become the defaults of the command line.
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--recipe", **option)
    path = first.parse_known_args(arguments)[0].recipe
    parser.add_argument("--recipe", **option)
    if path is not None:
        parser.set_defaults(**_defaults(parser, path))
    return parser.parse_args_into_dataclasses(list(arguments))[:-1]


def _defaults(parser: HfArgumentParser, path: Path) -> dict[str, Any]:
    """The entries of the recipe, as defaults for `parser`."""
    recipe = read_recipe(path)
    known = {field.name for kind in parser.dataclass_types for field in dataclasses.fields(kind) if field.init}
    if unknown := recipe.keys() - known:
        raise ValueError(f"{path} has unknown keys {sorted(unknown)}; the script knows {sorted(known)}")
    # argparse converts defaults that are strings, so that a 1 becomes 1.0 and YAML's "1e-4" a number where one is due.
    return {name: str(value) if type(value) in (int, float) else value for name, value in recipe.items()}


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        ValueError: another kind of file, or content that is no mapping.
    """
    if path.suffix == ".json":
        recipe = json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix in (".yaml", ".yml"):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    else:
        raise ValueError(f"a recipe is a .yaml, .yml or .json file, got {path}")
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold a mapping from argument to value, got {type(recipe).__name__}")
    return recipe
