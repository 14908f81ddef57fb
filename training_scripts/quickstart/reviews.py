"""What the quickstart trains on, a tokenizer learned from it, and the yardstick: TF-IDF with logistic regression."""

import json
import time
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from hf_effattn import word_piece_tokenizer
from hf_effattn.files import write_json, write_text
from hf_effattn.lra import get_task
from hf_effattn.metrics import load_metric


#: Word pieces that the tokenizer learns: the `vocab_size` of the presets ``<family>/reviews``.
VOCAB_SIZE = 8000


def load_reviews(rows: int | None = None) -> DatasetDict:
    """The film reviews of the task ``text``, without their line breaks of HTML; `rows` of each split, or all."""
    reviews = get_task("text").load("package")
    if rows is not None:
        reviews = DatasetDict({name: split.shuffle(seed=0).select(range(rows)) for name, split in reviews.items()})
    return reviews.map(lambda text: {"text": text.replace("<br />", " ")}, input_columns="text")


def write_reviews(reviews: DatasetDict, folder: Path) -> None:
    """Write the splits as JSON lines, as a user's own data would be, and the tokenizer that is learned from them.

    Raises:
        ValueError: the folder has other reviews, so what was trained and measured there is not to be mixed with these.
    """
    for name, split in reviews.items():
        rows = ({"text": row["text"], "label": split.features["label"].int2str(row["label"])} for row in split)
        path, text = folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
        if path.is_file() and path.read_text() != text:
            raise ValueError(f"{path} has other reviews: choose another --output_dir, or delete {folder.parent}")
        write_text(path, text)
    # Learning breaks ties by chance, and a run that goes on needs the tokenizer that it began with.
    if not (folder / "tokenizer").is_dir():
        staged = folder / "tokenizer.part"
        word_piece_tokenizer(reviews["train"]["text"], VOCAB_SIZE).save_pretrained(staged)
        staged.rename(folder / "tokenizer")


def train_yardstick(reviews: DatasetDict, path: Path) -> None:
    """Write the scores of logistic regression on the TF-IDF of words and pairs of words, if they are not there yet."""
    if path.is_file():
        return
    start = time.perf_counter()
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True)
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000))
    model.fit(reviews["train"]["text"], reviews["train"]["label"])
    scores: dict[str, Any] = load_metric("accuracy").compute(
        predictions=model.predict(reviews["test"]["text"]), references=reviews["test"]["label"]
    )
    parameters = model[-1].coef_.size + model[-1].intercept_.size
    write_json(path, {**scores, "seconds": time.perf_counter() - start, "parameters": parameters})
