"""Train three classifiers of film reviews, compare them with each other and with TF-IDF, and write a page about it.

    python -m training_scripts.quickstart --output_dir runs/quickstart

All models read whole reviews of up to 512 word pieces, with the same recipe, data and steps. Each trains in a process
of its own with one thread, two at a time. What is already trained there is not trained again. The results are a table,
``report.html``, and for every model a folder ``model/`` that loads without this package.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from tabulate import tabulate
from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser

import hf_effattn
from hf_effattn.files import read_json, write_json
from hf_effattn.training.checkpoints import is_finished
from hf_effattn.training.results import RESULTS, RunResults

from .report import write_report
from .reviews import load_reviews, train_yardstick, write_reviews
from .tables import HEADERS, LENGTHS_FILE, LONG, table_rows


ROOT = Path(__file__).parents[2]
#: The softmax baseline and its rivals. The baseline takes longest, so it begins.
MODELS = ("vanilla_transformer", "kernel_transformer", "convluna")
LENGTHS = (512, 1024, 2048, LONG)
AUTO_CLASS = "AutoModelForSequenceClassification"


@dataclass
class QuickstartArguments:
    """Where the quickstart writes, and by which recipe it trains."""

    output_dir: str = field(default="runs/quickstart", metadata={"help": "folder of the runs"})
    recipe: str = field(
        default=str(ROOT / "training_scripts/recipes/reviews.yaml"), metadata={"help": "recipe of all models"}
    )
    rows: int | None = field(default=None, metadata={"help": "take only so many reviews of each split, to try it"})


def main(arguments: list[str]) -> None:
    """Train what is missing, measure, verify, and write the page."""
    (options,) = HfArgumentParser(QuickstartArguments).parse_args_into_dataclasses(arguments)  # type: ignore[arg-type]
    folder = Path(options.output_dir).resolve()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    reviews = load_reviews(options.rows)
    write_reviews(reviews, folder / "data")
    with ThreadPoolExecutor(max_workers=2 if (os.cpu_count() or 1) > 1 else 1) as workers:
        jobs: list[Future[None]] = [workers.submit(train, model, folder, options.recipe) for model in MODELS]
        jobs.append(workers.submit(train_yardstick, reviews, folder / "yardstick.json"))
        try:
            for job in jobs:
                job.result()
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    results = {model: RunResults.load(folder / model / RESULTS) for model in MODELS}
    lengths = {model: measure_lengths(model, folder) for model in MODELS}
    rows = table_rows(results, lengths, read_json(folder / "yardstick.json"))
    for model in MODELS:
        difference = verify(folder / model / "model", reviews)
        print(f"{model}: loads without hf_effattn and without network, largest difference of a logit {difference:.1e}")
    page = write_report(folder, rows, results, lengths, reviews["test"]["text"][0])
    print(f"\n{tabulate(rows, headers=HEADERS, tablefmt='github', disable_numparse=True)}\n")
    print(f"The page with curves and pictures: {page}")
    print("To use a saved model from Python:")
    best = max(MODELS[1:], key=lambda model: results[model].accuracy())
    place = folder / best / "model"
    print(f'    classify = transformers.pipeline("text-classification", "{place}", trust_remote_code=True)')
    print('    classify("A film to remember.", truncation=True)')


def train(model: str, folder: Path, recipe: str) -> None:
    """Train `model` in a process of its own, or go on where an earlier run was stopped.

    Raises:
        RuntimeError: the training failed; the message names the file with its output.
    """
    output = folder / model
    if is_finished(output):
        print(f"{model}: already trained, see {output}; delete the folder to train again")
        return
    print(f"{model}: training, output in {output}.log", flush=True)
    data = folder / "data"
    command = [sys.executable, str(ROOT / "training_scripts/run_classification.py"), "--recipe", recipe]
    command += ["--train_file", str(data / "train.jsonl"), "--validation_file", str(data / "validation.jsonl")]
    command += ["--test_file", str(data / "test.jsonl"), "--tokenizer", str(data / "tokenizer")]
    command += ["--model_config", f"{model}/reviews", "--output_dir", str(output), "--resume", "true"]
    with open(f"{output}.log", "w") as log:
        status = subprocess.run(command, env=one_thread(), stdout=log, stderr=subprocess.STDOUT, check=False)
    if status.returncode != 0:
        raise RuntimeError(f"training {model} failed with exit code {status.returncode}: see {output}.log")
    print(f"{model}: trained", flush=True)


def one_thread() -> dict[str, str]:
    """The environment of a process beside which another one trains."""
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def measure_lengths(model: str, folder: Path) -> list[dict[str, Any]]:
    """Time and memory against length, measured or taken from an earlier start."""
    # It goes with the model when a user deletes the folder to train again.
    path = folder / model / LENGTHS_FILE
    if not path.is_file():
        command = [sys.executable, "-m", f"{__package__}.lengths", str(folder / model / "model"), *map(str, LENGTHS)]
        done = subprocess.run(command, cwd=ROOT, env=one_thread(), stdout=subprocess.PIPE, text=True, check=True)
        write_json(path, json.loads(done.stdout.splitlines()[-1]))
    found: list[dict[str, Any]] = read_json(path)
    return found


def verify(folder: Path, reviews: DatasetDict) -> float:
    """The largest difference between the logits here and those in a clean offline process, on test reviews."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = dict(tokenizer(reviews["test"]["text"][:16], truncation=True, padding=True, return_tensors="pt"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    difference: float = hf_effattn.verify_checkpoint(folder, AUTO_CLASS, inputs, model(**inputs).logits)
    return difference


if __name__ == "__main__":
    main(sys.argv[1:])
