"""Recipes: the arguments of a training script in a YAML or JSON file, which the command line may override."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_recipe(parser: HfArgumentParser, arguments: Sequence[str]) -> tuple[Any, ...]:
    """The parser's dataclasses, filled from ``--recipe FILE`` and then from the rest of the command line.

    Args:
        parser: for the dataclasses of the script.
        arguments: the command line without the program's name.

    Raises:
        ValueError: a recipe that is not a mapping, or one with a key that the script does not know.
        SystemExit: argparse's own, for a command line that does not parse.
    """
    parser.add_argument("--recipe", type=Path, help="YAML or JSON file with further arguments of this script")
    # The recipe has to be read before required arguments are missed.
    path = _recipe_path(arguments)
    if path is not None:
        recipe = read_recipe(path)
        known = {action.dest: action for action in parser._actions}
        if unknown := recipe.keys() - known.keys():
            raise ValueError(f"{path} has unknown keys {sorted(unknown)}; the script knows {sorted(known)}")
        for name, value in recipe.items():
            known[name].required = False
            # Strings go through argparse's own conversion, so that YAML's "1e-4" becomes a number.
            known[name].default = str(value) if known[name].type in (int, float) and value is not None else value
    return parser.parse_args_into_dataclasses(list(arguments))[:-1]


def read_recipe(path: Path) -> dict[str, Any]:
    """The mapping in a ``.json``, ``.yaml`` or ``.yml`` file.

    Raises:
        ValueError: another kind of file, or content that is no mapping.
    """
    if path.suffix == ".json":
        recipe = json.loads(path.read_text())
    elif path.suffix in (".yaml", ".yml"):
        recipe = yaml.safe_load(path.read_text())
    else:
        raise ValueError(f"a recipe is a .yaml, .yml or .json file, got {path}")
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold a mapping from argument to value, got {type(recipe).__name__}")
    return recipe


def _recipe_path(arguments: Sequence[str]) -> Path | None:
    for position, argument in enumerate(arguments):
        if argument == "--recipe" and position + 1 < len(arguments):
            return Path(arguments[position + 1])
        if argument.startswith("--recipe="):
            return Path(argument.removeprefix("--recipe="))
    return None
