"""What the command lines of the arena's measuring scripts share."""

import argparse
import logging
import warnings
from pathlib import Path

from training_scripts.arena.plan import PLAN


def measuring_parser(description: str | None, output: Path) -> argparse.ArgumentParser:
    """A parser with the options ``--plan`` and ``--output``; `output` is the default of the latter."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, help="another arena.yaml")
    parser.add_argument("--output", type=Path, default=output, help="file of the measurements")
    return parser


def silence_warnings() -> None:
    """Turn off warnings: models of transformers warn about themselves, on every call."""
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
