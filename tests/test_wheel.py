"""What `pip install` gives: the package is built from its source distribution, and every door opened from there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hf_effattn


ROOT = Path(__file__).parents[1]

BUILD = "import setuptools.build_meta as backend; backend.build_sdist('dist')"

OPEN_EVERY_DOOR = """
import importlib, importlib.metadata, json, pkgutil, sys
from pathlib import Path
from typer.testing import CliRunner
import hf_effattn
from hf_effattn.cli import app
from hf_effattn.metrics import METRICS, load_metric

for module in pkgutil.walk_packages(hf_effattn.__path__, "hf_effattn."):
    if module.name != "hf_effattn.__main__":
        importlib.import_module(module.name)

(entry,) = importlib.metadata.entry_points(name="hf-effattn")
assert entry.load() is app
for command in ([], *([command.name or command.callback.__name__] for command in app.registered_commands)):
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0, done.output
version = CliRunner().invoke(app, ["--version"]).stdout.split()
assert version == ["hf_effattn", importlib.metadata.version("hf_effattn")]
assert "linear_attention" in CliRunner().invoke(app, ["doctor"]).stdout

for name in METRICS:
    load_metric(name)

sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
for family in hf_effattn.list_families():
    model = family.model_class("AutoModelForSequenceClassification")(family.config_class(**sizes))
hf_effattn.export_checkpoint(model, hf_effattn.byte_tokenizer(80), "exported")
assert hf_effattn.verify_folder("exported").differences.keys() == {"AutoModelForSequenceClassification"}
hf_effattn.write_card("shipped", "shipped/results.json")

files = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "hf_effattn"]
print(json.dumps({"files": files, "backends": hf_effattn.backends("cpu")}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip has installed the wheel that it has built from the source distribution."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "hf_effattn", source / "hf_effattn", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD], check=True, cwd=source, stdout=subprocess.DEVNULL)
    (archive,) = (source / "dist").iterdir()
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target", target]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, archive], check=True, cwd=source)
    return target


def test_the_wheel_holds_the_package_and_nothing_else(installed):
    def files(folder):
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if "__pycache__" not in path.parts}

    assert files(installed / "hf_effattn") == files(ROOT / "hf_effattn")
    assert (installed / "hf_effattn/py.typed").is_file(), "without it no type checker reads our types"
    information = f"hf_effattn-{hf_effattn.__version__}.dist-info"
    assert {path.name for path in installed.iterdir()} == {"bin", "hf_effattn", information}


def test_every_door_opens_from_the_wheel(installed, tmp_path):
    shutil.copytree(ROOT / "model_cards/simpletron-reviews", tmp_path / "shipped")
    # Without `site` nobody reads the files by which a checkout is installed, and sees the checkout.
    packages = [path for path in sys.path if {"site-packages", "dist-packages"} & {*Path(path).parts}]
    paths = os.pathsep.join([str(installed), *packages])
    done = subprocess.run(
        [sys.executable, "-S", "-c", OPEN_EVERY_DOOR],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(Path(file).is_relative_to(installed) for file in found["files"])
    assert found["backends"] == hf_effattn.backends("cpu")
