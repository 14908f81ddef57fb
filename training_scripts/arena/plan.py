"""The plan of the arena: every variant of attention on every task with every seed, as `arena.yaml` lists them."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from hf_effattn.training.matched_configs import is_ours
from hf_effattn.training.recipes import read_recipe


PLAN = Path(__file__).with_name("arena.yaml")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant of attention: one row of the tables.

    Attributes:
        name: its key in files and on the command line.
        title: its name in tables.
        model_type: the type of its models.
        options: fields of their configs beside the size.
        filtered: the variant that this one adds a filter to.
        fixed: the variants with fixed feature maps that this one, with a trained map, is compared with.
        against_softmax: the softmax variant that this one is compared with.
        against_luna: the variant of Luna that this one is compared with.
    """

    name: str
    title: str
    model_type: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    filtered: str | None = None
    fixed: tuple[str, ...] = ()
    against_softmax: str | None = None
    against_luna: str | None = None

    @property
    def builtin(self) -> bool:
        """Whether its models are built into transformers."""
        return not is_ours(self.model_type)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        task: name of the recipe.
        variant: the variant of attention.
        seed: seed of the first weights and of the order of the data.
        arguments: all arguments of ``run_lra.py`` except the output folder.
    """

    task: str
    variant: Variant
    seed: int
    arguments: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the arguments; a result with another fingerprint comes from another recipe."""
        return hashlib.sha256(json.dumps(self.arguments, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Task, variant and seed as a path."""
        return f"{self.task}/{self.variant.name}/seed-{self.seed}"

    @property
    def key(self) -> tuple[str, int]:
        """Variant and seed: the key of its result among those of the task."""
        return self.variant.name, self.seed

    def command_line(self) -> list[str]:
        """The arguments as ``run_lra.py`` takes them."""
        return [
            f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"
            for name, value in self.arguments.items()
        ]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The whole arena.

    Attributes:
        tasks: name of a task's recipe -> its arguments.
        titles: name of a task's recipe -> its name in tables.
        apart: tasks without which averages are given a second time.
        variants: name -> variant, in the order of the rows.
        seeds: the seeds of the runs.
        options: config fields of all models of this library.
        builtin_options: config fields of all models of transformers.
    """

    tasks: dict[str, dict[str, Any]]
    titles: dict[str, str]
    apart: tuple[str, ...]
    variants: dict[str, Variant]
    seeds: tuple[int, ...]
    options: dict[str, Any]
    builtin_options: dict[str, Any]

    def averaged(self) -> dict[str, list[str]]:
        """Name of an average in tables -> the tasks that it is over."""
        found = {"mean": list(self.tasks)}
        if self.apart:
            without = " and ".join(self.titles[task] for task in self.apart)
            found[f"without {without}"] = [task for task in self.tasks if task not in self.apart]
        return found

    def options_of(self, variant: Variant) -> dict[str, Any]:
        """The fields of a variant's configs beside the size, shared ones included."""
        return (self.builtin_options if variant.builtin else self.options) | variant.options

    def runs(self) -> list[Run]:
        """Every run; those of the first seed come first, so that the tables are complete early."""
        return [
            self.run(task, variant, seed)
            for seed in self.seeds
            for task in self.tasks
            for variant in self.variants.values()
        ]

    def run(self, task: str, variant: Variant, seed: int) -> Run:
        """A run with its arguments."""
        recipe = self.tasks[task]
        # The model options of a recipe are for the models of this library.
        options = {} if variant.builtin else recipe.get("model_options", {})
        arguments = recipe | {
            "model_type": variant.model_type,
            "model_options": options | self.options_of(variant),
            "diagnose": not variant.builtin and variant.model_type != "vanilla_transformer",
            "seed": seed,
        }
        return Run(task, variant, seed, arguments)

    def first_run(self, task: str, variant: str) -> Run:
        """The run of the first seed, on whose model and data costs and memory are measured."""
        return self.run(task, self.variants[variant], self.seeds[0])

    def is_current(self, task: str, variant: str, measurement: dict[str, Any]) -> bool:
        """Whether a measurement was made by the recipe that the variant has on the task now."""
        if task not in self.tasks or variant not in self.variants:
            return False
        fingerprint = self.first_run(task, variant).fingerprint
        return fingerprint == measurement.get("fingerprint")


def read_plan(path: Path = PLAN) -> Plan:
    """The plan that a file describes.

    Raises:
        ValueError: a variant has an unknown field or refers to an unknown variant, or `apart` names an unknown task.
    """
    content = yaml.safe_load(path.read_text())
    variants = {}
    for name, fields in content["variants"].items():
        if unknown := fields.keys() - {field.name for field in dataclasses.fields(Variant)}:
            raise ValueError(f"{path}: variant {name!r} has unknown fields {sorted(unknown)}")
        fields["fixed"] = tuple(fields.get("fixed", ()))
        variants[name] = Variant(name=name, **fields)
    for variant in variants.values():
        others = (variant.filtered, variant.against_softmax, variant.against_luna, *variant.fixed)
        if missing := {name for name in others if name is not None} - variants.keys():
            raise ValueError(f"{path}: variant {variant.name!r} refers to unknown variants {sorted(missing)}")
    recipes = path.parent / content["recipes"]
    tasks = {name: read_recipe(recipes / f"{name}.yaml") for name in content["tasks"]}
    apart = tuple(content.get("apart", ()))
    if unknown := set(apart) - tasks.keys():
        raise ValueError(f"{path}: `apart` names unknown tasks {sorted(unknown)}")
    shared = content["options"], content["builtin_options"]
    return Plan(tasks, content["tasks"], apart, variants, tuple(content["seeds"]), *shared)
