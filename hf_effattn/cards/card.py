"""Write a checkpoint's model card from the results of the run that trained it; needs the ``train`` extra."""

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import __version__ as transformers_version

from ..extras import needs_extra
from ..families import Family
from ..hub.audit import audit_checkpoint
from ..hub.loading import head_classes, load_config
from ..lra import LraTask, get_task
from ..models.configuration_effattn import EffAttnConfig
from ..training.results import RunResults, require
from . import content
from .checks import check_run_of_a_task, check_same_model, check_same_weights, check_task, check_values


with needs_extra("train"):
    import jinja2


TEMPLATE = Path(__file__).with_name("card_template.md")

#: The Hub's name of what a model with this head does.
PIPELINE_TAGS = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForImageClassification": "image-classification",
}


def write_card(
    folder: str | Path,
    results: str | Path,
    repository: str | None = None,
    revision: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """Write ``README.md`` into a checkpoint folder: scores, use, data, training, limits, and the hashes of its code.

    The folder is audited first. That the results are those of this model is checked with its config, the number of its
    parameters, the labels of the task, and the checksums of the weights.

    Args:
        folder: a checkpoint of one head; the card of one without code says that it needs the package.
        results: the ``results.json`` of `training_scripts/run_lra.py`.
        repository: where the checkpoint is, or will be, published, ``owner/name``; if None, the examples hold a path
            to fill in.
        revision: the commit there that holds the weights and the code, 40 hexadecimal digits, if it is known; a card
            cannot know the commit that it is itself part of.
        license: that of the weights, by the Hub's name of it, such as ``"apache-2.0"``; if None, the card gives none.

    Returns:
        The card, as written.

    Raises:
        FileNotFoundError: there is no checkpoint, or no file with results.
        FileExistsError: there is a ``README.md`` that was written by hand, or changed since `write_card` wrote it.
        ValueError: an entry of the results is missing or cannot be true, they belong to another model, or the audit
            refuses a file.
    """
    folder = Path(folder)
    if revision is not None and not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"revision must be the 40 hexadecimal digits of a commit, got {revision!r}")
    readme = folder / "README.md"
    code = audit_checkpoint(folder).code
    _check_replaceable(readme)
    found = RunResults.load(results)
    task, family, config = _model_of(found, folder)
    name = repository.split("/")[-1] if repository else f"{family.model_type}-{task.name}"
    context = {
        "auto_class": task.auto_class,
        "class_name": family.class_names[task.auto_class],
        "code_table": content.code_table(code) if code else "",
        "family": family,
        "name": name,
        "repository": repository or "path/to/this/folder",
        "requirements": content.requirements(),
        "revision": revision,
        "task": task.name,
        "transformers_version": transformers_version,
        **_run_values(found, task, config),
    }
    metadata = _metadata(found, task, family.model_type, name, bool(code), license)
    text = f"---\n{metadata.to_yaml()}\n---\n{_render(context)}"
    card = ModelCard(text + _seal(text))
    card.save(readme)
    return card


def _model_of(results: RunResults, folder: Path) -> tuple[LraTask, Family, EffAttnConfig]:
    """The task, family and config of a checkpoint whose results these are.

    Raises:
        ValueError: they belong to another model, or an entry is missing or cannot be true.
    """
    check_run_of_a_task(results)
    task = get_task(require(results.arguments, "arguments", "task"))
    family, auto_classes = head_classes(folder)
    config = load_config(folder, family)
    check_task(task, auto_classes, list((config.id2label or {}).values()))
    check_same_model(results, config)
    check_same_weights(results, folder)
    check_values(results, family.model_class(task.auto_class), config)
    return task, family, config


def _seal(text: str) -> str:
    """The last line of a card, which readers do not see, and by which it is known that nobody has changed it."""
    return f"\n<!-- hf-effattn card, SHA-256 of the above: {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def _check_replaceable(readme: Path) -> None:
    """Raise FileExistsError if there is a README that `write_card` has not written, or that was changed since."""
    if not readme.exists():
        return
    # Bytes, and no translation of line ends: an editor that changes those has changed the file.
    found = readme.read_bytes().decode(errors="replace")
    text = found[: -len(_seal(""))]
    if found != text + _seal(text):
        raise FileExistsError(
            f"{readme} was not written by `hf-effattn card`, or was changed since: move it away, and write the card "
            "again"
        )


def _run_values(results: RunResults, task: LraTask, config: EffAttnConfig) -> dict[str, Any]:
    """What the template says of the training run and its model."""
    return {
        "config_name": type(config).__name__,
        "config_table": content.config_table(config),
        "environment_table": content.environment_table(results, task),
        "parameters": results.parameters,
        "results_table": content.results_table(results),
        "versions": results.environment.versions,
        **content.input_values(results, task, config),
        **content.training_values(results, task),
    }


def _metadata(
    results: RunResults, task: LraTask, model_type: str, name: str, code: bool, license: str | None
) -> ModelCardData:
    """The card's YAML block, with the scores as the Hub reads them."""
    accuracy, low, high = results.accuracy()
    pipeline_tag = PIPELINE_TAGS[task.auto_class]
    # Types of their own, so that nobody who reads scores by machine takes an end of the interval for one.
    measured = [
        ("accuracy", "Test accuracy", accuracy),
        ("accuracy_low", "Test accuracy, lower end of the 95 % interval", low),
        ("accuracy_high", "Test accuracy, upper end of the 95 % interval", high),
    ]
    source = require(results.arguments, "arguments", "source")
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=["hf_effattn", model_type, "efficient-attention", *(["custom_code"] if code else [])],
        metrics=["accuracy"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=pipeline_tag,
                dataset_type=task.name,
                dataset_name=f"{task.name} ({source if source in task.sources else Path(source).name})",
                dataset_split="test",
                dataset_args={"sha256": results.data["test"].sha256},
                metric_type=kind,
                metric_name=metric,
                metric_value=value,
            )
            for kind, metric, value in measured
        ],
    )


def _render(context: dict[str, Any]) -> str:
    # `ModelCard.from_template` would leave a blank where a value is missing.
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(context)
