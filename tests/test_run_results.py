"""Results of runs: typed, with a version; every training argument has one meaning; measuring works everywhere."""

import ast
import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainingArguments

import hf_effattn
from hf_effattn.files import read_json, write_json
from hf_effattn.machine import peak_resident_bytes, processor_name
from hf_effattn.training.argument_effects import (
    _FIELDS_BY_EFFECT,
    DERIVED,
    EFFECTS,
    READ_BY_LOOP,
    Effect,
    belongs_in_card,
    changes_result,
)
from hf_effattn.training.results import RESULTS, SCHEMA_VERSION, RunResults, RunSummary


ROOT = Path(__file__).parents[1]
CARD = ROOT / "model_cards/simpletron-reviews"
SCRIPTS = ROOT / "training_scripts"


@pytest.fixture
def content():
    return copy.deepcopy(read_json(CARD / RESULTS))


def test_results_come_back_as_they_were(content, tmp_path):
    results = RunResults.from_dict(content)
    assert results.to_dict() == content
    results.save(tmp_path)
    assert RunResults.load(tmp_path / RESULTS) == results
    assert results.accuracy() == (
        results.test["test_accuracy"],
        *(results.test[f"test_accuracy_{e}"] for e in ("low", "high")),
    )
    assert results.data["train"].rows == 17_434 and results.environment.device == "cpu"


def test_results_from_before_there_were_versions_load(content):
    del content["schema_version"]
    results = RunResults.from_dict(content)
    assert results.schema_version == 1 and results.code is None, "it was not recorded then, either"


def test_entries_that_are_not_known_are_left_out(content):
    assert RunResults.from_dict(content | {"weather": "fine"}).to_dict() == content


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "2", None])
def test_a_newer_schema_is_an_error_that_names_it(content, tmp_path, version):
    path = tmp_path / RESULTS
    write_json(path, content | {"schema_version": version})
    message = rf"results\.json: the results have schema_version {version!r}, .* up to {SCHEMA_VERSION}: install the"
    with pytest.raises(ValueError, match=message):
        RunResults.load(path)
    with pytest.raises(ValueError, match=message):
        hf_effattn.write_card(CARD, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "many"}, "steps='many', which must be of the type int"),
        ({"steps": True}, "steps=True, which must be of the type int"),
        ({"steps": 3.5}, "steps=3.5, which must be of the type int"),
        ({"tokens_per_second": "fast"}, "tokens_per_second='fast', which must be of the type float"),
        ({"data": []}, r"data=\[\], which must be of the type dict"),
        ({"data": {"train": {"rows": 1}}}, r"the results lack data\.train\.sha256; write them with"),
        ({"log": [3]}, r"log\.0=3, which must be of the type dict"),
        ({"environment": {"python": "3"}}, r"the results lack environment\.platform"),
        ({"environment": "here"}, "environment='here', which must be of the type Environment"),
        ({"weights": {"model.safetensors": 1}}, r"weights\.model\.safetensors=1, which must be of the type str"),
        ({"parameters": None}, "the results lack parameters"),
    ],
)
def test_entries_have_their_types(content, change, message):
    with pytest.raises(ValueError, match=message):
        RunResults.from_dict(content | change)


def test_what_is_no_mapping_is_no_results(tmp_path):
    (tmp_path / RESULTS).write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"results\.json: the results are a list, and must be a mapping"):
        RunResults.load(tmp_path / RESULTS)


def test_a_summary_is_a_part_of_results(content):
    summary = RunResults.from_dict(content).summary()
    assert type(summary) is RunSummary
    assert RunSummary.from_dict(summary.to_dict()) == summary
    assert summary.to_dict().items() <= content.items()


def test_the_table_of_training_arguments_knows_every_field():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert not (unknown := fields - EFFECTS.keys()), f"say in argument_effects.py what {sorted(unknown)} change"
    listed = [name for names in _FIELDS_BY_EFFECT.values() for name in names.split()]
    assert len(listed) == len(set(listed)), "every field has one meaning"
    assert set(TrainingArguments(output_dir="unused").to_sanitized_dict()) - fields == DERIVED
    kinds = Effect.RESULT, Effect.EXECUTION, Effect.RECORD
    assert all(sum(kind in effect for kind in kinds) == 1 for effect in EFFECTS.values())


def test_what_training_arguments_change():
    assert changes_result("learning_rate") and belongs_in_card("learning_rate") and "learning_rate" in READ_BY_LOOP
    assert not changes_result("use_cpu") and belongs_in_card("use_cpu")
    assert not changes_result("output_dir") and not belongs_in_card("output_dir")
    assert changes_result("not_yet_known") and belongs_in_card("not_yet_known"), "to be on the safe side"
    assert changes_result("train_batch_size") and not belongs_in_card("train_batch_size"), "it follows from others"


def test_the_machine_is_described():
    assert peak_resident_bytes() > 10 * 2**20
    assert processor_name() and "\n" not in processor_name()


@pytest.mark.parametrize("module", ["hf_effattn.training.train", "training_scripts.benchmark.memory_point"])
def test_measuring_can_be_imported_where_there_is_no_resource_module(module):
    """As on Windows."""
    code = f"import sys; sys.modules['resource'] = None; import {module}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_scripts_that_import_no_others_start_from_any_folder(tmp_path):
    alone = [path for path in SCRIPTS.glob("*.py") if path.name not in ("__init__.py", "readme_tables.py")]
    for path in alone:
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not any(node.level or str(node.module).startswith("training_scripts") for node in imports), path.name
    run = subprocess.run(
        [sys.executable, SCRIPTS / "run_lra.py", "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "--model_name_or_path" in run.stdout


def test_quickstart_results_in_the_repository_are_summaries():
    for summary in json.loads((SCRIPTS / "results/quickstart.json").read_text()).values():
        assert RunSummary.from_dict(summary).to_dict() == summary
