"""The page as a Space."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from huggingface_hub import metadata_load
from packaging.requirements import Requirement
from typer.testing import CliRunner

from hf_effattn.cli import app
from hf_effattn.demo import export, models
from tests.demo.making import DECODER, exported


ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


OPEN = """
import json, runpy
import hf_effattn
page = runpy.run_path("app.py")["page"]
print(json.dumps([hf_effattn.__file__, sorted(str(function.api_name) for function in page.fns.values())]))
"""


def test_a_space_runs_with_what_lies_in_it(tmp_path):
    exported(tmp_path / "a/model")
    exported(tmp_path / "b/model", auto_class=DECODER)
    done = run(tmp_path / "a/model", tmp_path / "b/model", "--export", tmp_path / "space")
    assert done.exit_code == 0, done.output
    assert "next: hf upload OWNER/NAME" in done.stdout
    for folder in ("a", "b"):
        (tmp_path / folder).rename(tmp_path / f"gone-{folder}")
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        capture_output=True,
        text=True,
        cwd=tmp_path / "space",
        env={**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""},
    )
    assert done.returncode == 0, done.stderr
    file, names = json.loads(done.stdout.splitlines()[-1])
    assert Path(file) == tmp_path / "space/hf_effattn/__init__.py"
    assert {"classify", "generate", "look", "times"} <= set(names)
    # What Python compiles there is no change of it.
    assert list((tmp_path / "space/hf_effattn").rglob("*.pyc"))
    exported(tmp_path / "c")
    assert run(tmp_path / "c", "--export", tmp_path / "space").exit_code == 0
    assert [path.name for path in (tmp_path / "space/models").iterdir()] == ["c"]


def test_the_card_of_a_space_has_what_the_hub_reads(tmp_path, monkeypatch):
    exported(tmp_path / "download")
    monkeypatch.setattr(models, "find_folder", lambda source, code: tmp_path / "download")
    export.export_space(["owner/name"], tmp_path / "space")
    card = metadata_load(tmp_path / "space/README.md")
    pins = dict(line.split("==") for line in (tmp_path / "space/requirements.txt").read_text().splitlines())
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py" and card["models"] == ["owner/name"]
    assert card["sdk_version"] == pins["gradio"] and card["title"]
    assert "SOURCES = ['owner/name']" in (tmp_path / "space/app.py").read_text()
    assert not (tmp_path / "space/models").exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    assert [Requirement(line).name for line in needed] == list(pins)
    assert all(Requirement(line).specifier.contains(pins[Requirement(line).name]) for line in needed)


@pytest.mark.parametrize("there", ["another file", "changed", "a checkpoint", "a file of theirs"])
def test_what_no_export_has_written_is_not_replaced(there, tmp_path):
    exported(tmp_path / "model")
    space = tmp_path / "space"
    if there == "another file":
        space.mkdir()
        (space / "notes.txt").write_text("mine")
        message = "holds something that is not a Space"
    elif there == "a checkpoint":
        exported(space)
        message = "holds something that is not a Space"
    else:
        export.export_space([str(tmp_path / "model")], space)
        with (space / ("app.py" if there == "changed" else "mine.txt")).open("a") as file:
            file.write("mine")
        message = "were changed after their export, ['app.py']" if there == "changed" else "holds more than a Space"
    before = {path: path.read_bytes() for path in space.rglob("*") if path.is_file()}
    done = run(tmp_path / "model", "--export", space)
    assert done.exit_code == 1 and message in done.stderr, done.stderr
    assert {path: path.read_bytes() for path in space.rglob("*") if path.is_file()} == before


def test_a_space_is_of_the_package_s_own_code(tmp_path):
    done = run("anything", "--export", tmp_path / "space", "--run-foreign-code")
    assert done.exit_code == 1
    assert done.stderr.startswith("refused: a Space runs only the code of this package")
