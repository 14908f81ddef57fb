"""The statements and tables of a model card, from the results of a training run, the config and the code."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate
from transformers import TrainingArguments

from ..lra import LraTask
from ..models.base_versions import SUPPORTED
from ..models.configuration_effattn import EffAttnConfig
from ..training.argument_effects import belongs_in_card
from ..training.results import RunResults, require


#: Fields of a config that do not describe the architecture.
NOT_ARCHITECTURE = {"architectures", "auto_map", "dtype", "id2label", "label2id", "problem_type", "use_cache"}
NOT_ARCHITECTURE |= {"transformers_version"}

#: What the examples of a card classify.
EXAMPLES = {"listops": "[MAX 2 9 [MIN 4 7 ] 0 ]"}
EXAMPLE = "A film to remember."


def architecture(config: EffAttnConfig) -> dict[str, Any]:
    """The declared fields of a config that describe the model."""
    names = {field.name for field in dataclasses.fields(config)} - NOT_ARCHITECTURE
    return {name: getattr(config, name) for name in sorted(names)}


def kind_of_input(task: LraTask) -> str:
    """What the models of a task read: ``"pixels"``, ``"pair"``, ``"text"``, or ``"ids"`` without a tokenizer."""
    if task.pixels is not None:
        return "pixels"
    if task.pairs:
        return "pair"
    return "ids" if task.tokenizer is None else "text"


def input_values(results: RunResults, task: LraTask, config: EffAttnConfig) -> dict[str, Any]:
    """What the template needs for its examples."""
    longest = config.max_input_length
    mean, deviation = task.pixels or (None, None)
    return {
        "kind": kind_of_input(task),
        "example_text": EXAMPLES.get(task.name, EXAMPLE),
        "second_text": EXAMPLE,
        "mean": mean,
        "deviation": deviation,
        "side": math.isqrt(max(1, (longest or 1025) - 1)),
        "vocab_size": config.vocab_size,
        "example_length": min(longest or 128, 128),
        "longest": longest,
        "max_length": require(results.arguments, "arguments", "max_length"),
    }


def training_values(results: RunResults, task: LraTask) -> dict[str, Any]:
    """What the template says of the data and of the training."""
    source = require(results.arguments, "arguments", "source")
    best = require(results.training_arguments, "training_arguments", "load_best_model_at_end")
    return {
        "source": f"source `{source}`" if source in task.sources else f"files of the folder `{Path(source).name}`",
        "seed": require(results.training_arguments, "training_arguments", "seed"),
        "steps": results.steps,
        "best_step": require(results.best_step, "best_step") if best else None,
        "starting_point": starting_point(results),
        "arguments_table": arguments_table(results),
        "data_table": data_table(results),
    }


def starting_point(results: RunResults) -> str:
    """Which weights training began with."""
    start = results.arguments.get("model_name_or_path")
    # The last two parts are the name of a repository, or as much of a path as is of use elsewhere.
    return "From new weights," if start is None else f"From the weights of `{'/'.join(Path(start).parts[-2:])}`,"


def arguments_table(results: RunResults) -> str:
    """The arguments of the run that are not defaults; the seed in any case."""
    own = {
        name: value
        for name, value in results.arguments.items()
        if value not in (None, False, {}) and name not in ("source", "model_config", "model_name_or_path", "resume")
    }
    defaults = TrainingArguments(output_dir=".").to_sanitized_dict()
    training = {
        name: value
        for name, value in results.training_arguments.items()
        if belongs_in_card(name) and (name == "seed" or defaults.get(name) != value)
    }
    return _table(("argument", "value"), [(f"`{name}`", f"`{value}`") for name, value in (own | training).items()])


def data_table(results: RunResults) -> str:
    """Rows and checksum of every split."""
    rows = [
        (name, f"{results.data[name].rows:,}", f"`{results.data[name].sha256}`")
        for name in ("train", "validation", "test")
    ]
    return _table(("split", "rows", "SHA-256"), rows)


def results_table(results: RunResults) -> str:
    """The score, and its interval."""
    accuracy, low, high = results.accuracy()
    rows = [("test accuracy", f"{accuracy:.2%}"), ("95 % interval", f"{low:.2%} to {high:.2%}")]
    return _table(("measure", "value"), rows)


def config_table(config: EffAttnConfig) -> str:
    """The fields of a config that are not the defaults of its class."""
    defaults = architecture(type(config)())
    changed = [(f"`{name}`", f"`{value}`") for name, value in architecture(config).items() if value != defaults[name]]
    return _table(("field", "value"), changed)


def environment_table(results: RunResults, task: LraTask) -> str:
    """What the run cost, and on what."""
    device = results.environment.device
    unit = "tokens without padding" if task.pixels is None else "pixels"
    memory = "peak memory of the process" if device == "cpu" else "peak memory on the GPU"
    backends = sorted(set(require(results.backends, "backends", "layers").values()))
    rows = [
        ("device", device),
        ("processes", results.processes),
        ("threads of torch of each", results.environment.torch_threads),
        ("processor cores", results.environment.cpu_count),
        ("platform", results.environment.platform),
        ("backend of attention", ", ".join(backends)),
        ("dtype of the weights", require(results.backends, "backends", "dtype")),
        ("mixed precision", results.mixed_precision),
        (f"{unit} per second in training steps", f"{require(results.tokens_per_second, 'tokens_per_second'):,.0f}"),
        (memory, f"{results.peak_memory_bytes / 2**20:,.0f} MiB"),
        ("Python", results.environment.python),
        *results.environment.versions.items(),
    ]
    return _table(("what", "value"), rows)


def code_table(code: Mapping[str, str]) -> str:
    """Every code file and its hash."""
    return _table(("file", "SHA-256"), [(f"`{path}`", f"`{digest}`") for path, digest in code.items()])


def requirements() -> str:
    """The versions that the code of a checkpoint insists on, and those that it was tested with."""
    return " and ".join(f"{package} >= {low} (tested to {high})" for package, (low, high) in SUPPORTED.items())


def _table(headers: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
