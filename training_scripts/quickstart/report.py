"""The quickstart's page: one HTML file with table, curves and pictures, which needs no network."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_effattn import attention_figure, diagnose
from hf_effattn.files import write_text
from hf_effattn.training.results import RunResults

from ..measuring.figures import DETERMINISTIC
from .tables import HEADERS


TEMPLATE = Path(__file__).with_name("report.html.j2")
#: Word pieces of the review whose attention is drawn: more of them would be too small to see.
PIECES = 64
Points = list[dict[str, Any]]


def write_report(
    folder: Path, rows: list[list[str]], results: Mapping[str, RunResults], lengths: Mapping[str, Points], review: str
) -> Path:
    """Write ``report.html`` into the output folder of the quickstart, and return its path.

    Args:
        folder: with ``<model>/model`` of every model.
        rows: the table.
        results: by model.
        lengths: by model, see `lengths.measure`.
        review: the text whose attention is drawn.
    """
    models = {
        model: attention_of(folder / model / "model", review) for model in results if model != "vanilla_transformer"
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    page = environment.from_string(TEMPLATE.read_text()).render(
        headers=HEADERS,
        rows=rows,
        curves=as_svg(learning_curves(results)),
        costs=as_svg(cost_curves(lengths)),
        models=models,
        folder=folder,
        versions=next(iter(results.values())).environment.versions,
        machine=next(iter(results.values())).environment,
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def learning_curves(results: Mapping[str, RunResults]) -> Figure:
    """The training loss of every model against its steps."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for model, result in results.items():
        log = [entry for entry in result.log if "loss" in entry]
        axes.plot([entry["step"] for entry in log], [entry["loss"] for entry in log], label=model)
    axes.set(xlabel="training step", ylabel="training loss")
    axes.legend()
    return figure


def cost_curves(lengths: Mapping[str, Points]) -> Figure:
    """Time and memory of every model against the length of a text."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for model, points in lengths.items():
        axis = [point["length"] for point in points]
        left.plot(axis, [1000 * point["seconds"] for point in points], marker="o", label=model)
        if all(point["bytes"] is not None for point in points):
            right.plot(axis, [point["bytes"] / 2**20 for point in points], marker="o", label=model)
    left.set(xlabel="word pieces", ylabel="milliseconds for one text")
    right.set(xlabel="word pieces", ylabel="MiB for one text")
    left.legend()
    return figure


@torch.no_grad()
def attention_of(folder: Path, review: str) -> dict[str, Any]:
    """The beginning of a review, what a model says of it, its measures, and a picture of its attention."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer(review, truncation=True, max_length=PIECES, return_tensors="pt")
    scores = model(**inputs).logits.softmax(-1)[0]
    best = int(scores.argmax())
    return {
        "text": tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True),
        "answer": f"{model.config.id2label[best]}, {float(scores[best]):.0%}",
        "measures": {name: f"{value:.3g}" for name, value in diagnose(model, **inputs).items()},
        "picture": as_png(attention_figure(model, **inputs)),
    }


def as_svg(figure: Figure) -> str:
    """A figure as an address of data that an image of a page takes."""
    content = io.BytesIO()
    with rc_context(DETERMINISTIC):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()


def as_png(figure: Figure) -> str:
    """As `as_svg`, for maps of many cells."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
