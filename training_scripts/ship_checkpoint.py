"""Put a trained model into model_cards/: weights, config, tokenizer, results and card, without its code.

    python training_scripts/run_lra.py --recipe training_scripts/recipes/sentiment.yaml --output_dir runs/sentiment
    python training_scripts/ship_checkpoint.py runs/sentiment simpletron-reviews
    python training_scripts/ship_checkpoint.py model_cards/simpletron-reviews simpletron-reviews   # the card anew

The code is that of the package, so it is not there twice; ``hf-effattn export`` puts it beside the weights.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from hf_effattn.cards.card import write_card
from hf_effattn.hub.checkpoint_files import EXPORT_RECORD
from hf_effattn.training.results import RESULTS, RunResults


CARDS = Path(__file__).parents[1] / "model_cards"


def ship(source: Path, target: Path) -> None:
    """Copy what is not code from a run, or from what was shipped before, and write the card.

    Raises:
        FileNotFoundError: `source` has no results or no model.
    """
    model = source / "model" if (source / "model").is_dir() else source
    with tempfile.TemporaryDirectory() as scratch:
        staging = Path(scratch) / target.name
        ignored = shutil.ignore_patterns("*.py", "__pycache__", "README.md", EXPORT_RECORD)
        shutil.copytree(model, staging, ignore=ignored)
        config = json.loads((staging / "config.json").read_text())
        # It names code that is not there; the package's config puts it back when the model is exported.
        config.pop("auto_map", None)
        (staging / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        results = RunResults.load(source / RESULTS)
        # Where the run lay on the machine that made it is of no use elsewhere.
        results.training_arguments.pop("output_dir", None)
        results.save(staging)
        write_card(staging, staging / RESULTS, repository=f"model_cards/{target.name}", license="apache-2.0")
        for path in staging.iterdir():
            path.chmod(0o644)
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(staging, target)


def main(arguments: list[str]) -> None:
    """Ship what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="output folder of a run, or a folder of model_cards/")
    parser.add_argument("name", help="of the folder in model_cards/")
    options = parser.parse_args(arguments)
    ship(options.source, CARDS / options.name)


if __name__ == "__main__":
    main(sys.argv[1:])
