"""What the arena runs: every variant of attention on every task with every seed, as `arena.yaml` lists them."""

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
    """One row of the tables.

    Attributes:
        name: its key in file names.
        title: what tables call it.
        model_type: of its models.
        options: fields of their config beside the size.
        filtered: the variant that this one adds a filter to, if it does.
        fixed: the variants with fixed feature maps that this one, whose map is trained, is set against.
        against_softmax: the softmax variant that this one is set against, if it is.
        against_luna: the same of Luna.
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
        """Whether the model is one of transformers."""
        return not is_ours(self.model_type)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        task: name of the recipe.
        variant: the row.
        seed: of initialisation and of the order of the data.
        arguments: everything that ``run_lra.py`` is given, but for the output folder.
    """

    task: str
    variant: Variant
    seed: int
    arguments: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the arguments: a result with another one comes from another recipe."""
        return hashlib.sha256(json.dumps(self.arguments, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Task, variant and seed as a path."""
        return f"{self.task}/{self.variant.name}/seed-{self.seed}"

    @property
    def key(self) -> tuple[str, int]:
        """Variant and seed, which name a result of the task."""
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
        titles: what tables call the tasks.
        apart: tasks that averages are given with and without.
        variants: the rows, by name.
        seeds: of the runs.
        options: fields of the configs of all models of this library.
        builtin_options: those of all models of transformers.
    """

    tasks: dict[str, dict[str, Any]]
    titles: dict[str, str]
    apart: tuple[str, ...]
    variants: dict[str, Variant]
    seeds: tuple[int, ...]
    options: dict[str, Any]
    builtin_options: dict[str, Any]

    def averaged(self) -> dict[str, list[str]]:
        """What a table calls an average -> the tasks that it is over."""
        found = {"mean": list(self.tasks)}
        if self.apart:
            without = " and ".join(self.titles[task] for task in self.apart)
            found[f"without {without}"] = [task for task in self.tasks if task not in self.apart]
        return found

    def options_of(self, variant: Variant) -> dict[str, Any]:
        """The fields of a variant's configs beside the size."""
        return (self.builtin_options if variant.builtin else self.options) | variant.options

    def runs(self) -> list[Run]:
        """Every run; those of the first seed come first, so that a table is whole as early as it can be."""
        return [
            self.run(task, variant, seed)
            for seed in self.seeds
            for task in self.tasks
            for variant in self.variants.values()
        ]

    def run(self, task: str, variant: Variant, seed: int) -> Run:
        """One run with its arguments."""
        recipe = self.tasks[task]
        # What a recipe says is for the models of this library.
        options = {} if variant.builtin else recipe.get("model_options", {})
        arguments = recipe | {
            "model_type": variant.model_type,
            "model_options": options | self.options_of(variant),
            "diagnose": not variant.builtin and variant.model_type != "vanilla_transformer",
            "seed": seed,
        }
        return Run(task, variant, seed, arguments)


def read_plan(path: Path = PLAN) -> Plan:
    """The arena that a file describes.

    Raises:
        ValueError: a variant that refers to one that there is not, or that has an unknown field.
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
            raise ValueError(f"{path}: variant {variant.name!r} refers to {sorted(missing)}, which there are not")
    recipes = path.parent / content["recipes"]
    tasks = {name: read_recipe(recipes / f"{name}.yaml") for name in content["tasks"]}
    apart = tuple(content.get("apart", ()))
    if unknown := set(apart) - tasks.keys():
        raise ValueError(f"{path}: the tasks {sorted(unknown)} are to stand apart, and there are none of these names")
    shared = content["options"], content["builtin_options"]
    return Plan(tasks, content["tasks"], apart, variants, tuple(content["seeds"]), *shared)
