"""Train SimpleTRON and the softmax baseline on film reviews, compare them, and prove that what is saved loads.

    python training_scripts/quickstart.py --output_dir runs/quickstart

Both models get the same recipe, the same data and the same steps, each in a process of its own, so that their peak
memory can be told apart. A model that is already trained there is not trained again.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets import DatasetDict
from tabulate import tabulate
from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser

import hf_effattn
from hf_effattn.lra import get_task
from hf_effattn.training.checkpoints import is_finished
from hf_effattn.training.results import RESULTS, RunResults, RunSummary, require


ROOT = Path(__file__).parents[1]
MODELS = ("simpletron", "vanilla_transformer")
AUTO_CLASS = "AutoModelForSequenceClassification"


@dataclass
class QuickstartArguments:
    """Where the quickstart writes, and by which recipe it trains."""

    output_dir: str = field(default="runs/quickstart", metadata={"help": "folder of the runs"})
    recipe: str = field(
        default=str(ROOT / "training_scripts/recipes/quickstart.yaml"), metadata={"help": "recipe of both models"}
    )


def main(arguments: list[str]) -> None:
    """Train what is missing, then verify, then print the table."""
    (options,) = HfArgumentParser(QuickstartArguments).parse_args_into_dataclasses(arguments)  # type: ignore[arg-type]
    for model in MODELS:
        train(model, Path(options.output_dir) / model, options.recipe)
    results = {model: RunResults.load(Path(options.output_dir) / model / RESULTS) for model in MODELS}
    reviews = get_task("text").load("package")
    for model in MODELS:
        difference = verify(Path(options.output_dir) / model / "model", reviews)
        print(f"{model}: loads without hf_effattn and without network, largest difference of a logit {difference:.1e}")
    print(f"\n{quickstart_table(results)}\n")
    folder = Path(options.output_dir).resolve() / MODELS[0] / "model"
    print("To use the saved model from Python:")
    print(f'    classify = transformers.pipeline("text-classification", "{folder}", trust_remote_code=True)')
    print('    classify("A film to remember.", truncation=True)')


def train(model: str, folder: Path, recipe: str) -> None:
    """Train `model` in a process of its own, or go on where an earlier run was stopped."""
    if is_finished(folder):
        print(f"{model}: already trained, see {folder}; delete the folder to train again")
        return
    print(f"{model}: training, into {folder}")
    command = [sys.executable, str(ROOT / "training_scripts/run_lra.py"), "--recipe", recipe, "--resume", "true"]
    config = ROOT / "modeling_configs" / f"{model}-quickstart.json"
    command += ["--model_config", str(config), "--output_dir", str(folder)]
    subprocess.run(command, check=True)


def verify(folder: Path, reviews: DatasetDict) -> float:
    """The largest difference between the logits here and those in a clean offline process, on test reviews."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = dict(tokenizer(reviews["test"]["text"][:16], truncation=True, padding=True, return_tensors="pt"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    difference: float = hf_effattn.verify_checkpoint(folder, AUTO_CLASS, inputs, model(**inputs).logits)
    return difference


def quickstart_table(results: Mapping[str, RunSummary]) -> str:
    """One line per model of the quickstart: accuracy with its interval, speed, memory, size."""
    headers = ["model", "test accuracy", "95 % interval", "tokens/s", "peak memory", "parameters"]
    rows = []
    for model, result in results.items():
        accuracy, low, high = result.accuracy()
        speed = require(result.tokens_per_second, "tokens_per_second")
        memory = f"{result.peak_memory_bytes / 2**20:,.0f} MiB"
        interval = f"{low:.1%} to {high:.1%}"
        rows.append([model, f"{accuracy:.1%}", interval, f"{speed:,.0f}", memory, f"{result.parameters:,}"])
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main(sys.argv[1:])
