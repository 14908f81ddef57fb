"""The benchmark: nothing has a time without a check, and everything without a time says why. No time is tested."""

import dataclasses
import os
import shutil
import subprocess
import sys

import pytest
import torch

from hf_effattn.files import read_json
from training_scripts.benchmark import operators, suite
from training_scripts.benchmark.candidate import Candidate, Prepared
from training_scripts.benchmark.model_entries import ENTRIES, ModelEntry
from training_scripts.benchmark.models import TRAINING_STEP, run_models
from training_scripts.benchmark.operators import Scenario, measure_scenario
from training_scripts.benchmark.ours import COMPUTES, linear_candidate, softmax_candidate
from training_scripts.benchmark.problem import ELU, MODES, TRAINING, Problem
from training_scripts.benchmark.ratios import above_floor
from training_scripts.benchmark.settings import GROUPS, Settings, quick_settings
from training_scripts.benchmark.targets import Target
from training_scripts.measuring.ratios import ratio


QUICK = quick_settings()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    command = [
        sys.executable,
        "-m",
        "training_scripts.benchmark.run",
        "--quick",
        "--threads",
        "1",
        "--output-dir",
        folder,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return read_json(folder / "benchmark.json")


def measure(*candidates, mode=TRAINING, length=QUICK.check_length):
    scenario = Scenario(Problem(length), mode, [linear_candidate("torch"), *candidates])
    return {entry["name"]: entry for entry in measure_scenario(scenario, QUICK)["entries"]}


@pytest.mark.slow
def test_every_group_says_what_it_ran_on(results):
    assert list(results) == sorted(GROUPS)
    for group in results.values():
        assert group["quick"] and group["machine"]["threads"] == 1
        assert group["machine"]["allocator"]["MALLOC_MMAP_THRESHOLD_"] == "4294967296"
        assert len(group["load_before"]) == len(group["load_after"]) == 3


@pytest.mark.slow
def test_every_time_has_its_check_and_everything_else_its_error(results):
    entries = [entry for scenario in results["operators"]["scenarios"] for entry in scenario["entries"]]
    timed = [entry for entry in entries if "seconds" in entry]
    assert {"hf_effattn torch", "torch SDPA", "torch einsum"} <= {entry["name"] for entry in timed}
    for entry in entries:
        if entry in timed:
            assert entry["check"]["passed"] and entry["error"] is None and "output" in entry["check"]["errors"]
        else:
            assert entry["error"]
    for scenario in results["operators"]["scenarios"]:
        if scenario["mode"] == TRAINING:
            checked = [entry["check"]["errors"] for entry in scenario["entries"] if "seconds" in entry]
            assert all("gradient 0" in errors for errors in checked)
    (point,) = results["memory"]["points"]
    assert point["error"] is None and point["check"]["passed"] and point["peak_bytes"] > 0
    for decoder in results["decode"]["decoders"]:
        assert decoder["check"]["passed"] and len(set(decoder["state_bytes"].values())) == 1


@pytest.mark.slow
def test_models_are_timed_with_their_checks(results):
    entries = {entry["name"]: entry for entry in results["models"]["entries"]}
    assert list(entries) == [model.name for model in ENTRIES]
    for entry in entries.values():
        assert entry["error"] or (entry["check"]["passed"] and TRAINING_STEP in entry["seconds"])
        if entry["origin"] == "ours":
            assert entry["check"]["padding"]["exact"] and entry["parameters"] > 0


@pytest.mark.slow
def test_report_is_regenerated_to_the_byte(folder, tmp_path):
    shutil.copy(folder / "benchmark.json", tmp_path)
    subprocess.run([sys.executable, "-m", "training_scripts.benchmark.report", "--output-dir", tmp_path], check=True)
    names = {path.name for path in folder.iterdir()}
    assert {"benchmark.json", "benchmark.md", "benchmark-time.svg", "benchmark-memory.svg"} == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    report = (folder / "benchmark.md").read_text()
    assert "## Targets" in report and "| not measured | – " in " ".join(report.split())


def wrong_setup(problem):
    """Softmax attention that claims to be linear."""
    right = linear_candidate("torch").setup(problem)
    return dataclasses.replace(right, run=softmax_candidate().setup(problem).run)


def test_a_wrong_function_is_refused_a_time():
    for mode in MODES:
        entry = measure(Candidate("wrong", COMPUTES[ELU], wrong_setup), mode=mode)["wrong"]
        assert "seconds" not in entry and not entry["check"]["passed"]
        assert entry["error"].startswith("refused: relative error against its oracle (output")


def test_wrong_gradients_are_refused_a_time():
    def setup(problem):
        right = linear_candidate("torch").setup(problem)
        return dataclasses.replace(right, run=lambda q, k, v: right.run(q, k.detach(), v) + 0 * k)

    entry = measure(Candidate("detached", COMPUTES[ELU], setup))["detached"]
    assert "seconds" not in entry and "gradient 1" in entry["error"] and "output" not in entry["error"]


def test_what_goes_wrong_only_at_the_timed_length_is_refused_a_time():
    def setup(problem):
        return (wrong_setup if problem.length > QUICK.check_length else linear_candidate("torch").setup)(problem)

    entry = measure(Candidate("short", COMPUTES[ELU], setup), length=2 * QUICK.check_length)["short"]
    assert "seconds" not in entry and entry["check"]["passed"] and "differs from hf_effattn torch" in entry["error"]


def test_failing_and_missing_peers_are_listed_with_their_errors():
    def failing(problem):
        raise RuntimeError("0 active drivers\nand more")

    def missing(problem):
        raise ImportError("No module named 'nowhere'")

    def failing_when_run(problem):
        return Prepared(failing, lambda q, k, v: q)

    entries = measure(
        Candidate("failing", "", failing),
        Candidate("missing", "", missing, package="no-such-package"),
        Candidate("later", "", failing_when_run),
        Candidate("long", "", failing, longest={TRAINING: 64}, reason="keeps everything"),
    )
    assert entries["failing"]["error"] == "RuntimeError: 0 active drivers"
    assert entries["missing"]["error"] == "not installed: pip install no-such-package"
    assert entries["later"]["error"].startswith("TypeError")
    assert entries["long"]["error"] == "left out beyond N=64: keeps everything"
    assert all(("seconds" in entry) == (name == "hf_effattn torch") for name, entry in entries.items())


def test_failing_models_are_listed_and_those_without_a_finite_loss_are_refused():
    def failing(size):
        raise ValueError("no such size")

    def broken(size):
        model = ENTRIES[0].build(size)
        torch.nn.init.constant_(model.get_input_embeddings().weight, float("nan"))
        return model

    models = (ENTRIES[0], ModelEntry("failing", "", failing, "peer"), ModelEntry("broken", "", broken, "peer"))
    good, bad, nan = run_models(QUICK, models)["entries"]
    assert good["seconds"] and good["error"] is None
    assert bad["error"] == "ValueError: no such size" and not bad["seconds"]
    assert nan["error"] == "refused: the loss is nan" and not nan["seconds"]


def test_groups_are_kept_apart_and_resumed(tmp_path, monkeypatch):
    calls = []
    for name in GROUPS:
        monkeypatch.setitem(suite.RUN, name, lambda settings, name=name: calls.append(name) or {"scenarios": []})
    monkeypatch.setattr(suite, "write_report", lambda folder: None)
    suite.run_groups(["memory"], QUICK, tmp_path)
    suite.run_groups(["memory", "decode"], QUICK, tmp_path, resume=True)
    suite.run_groups(["decode"], QUICK, tmp_path)
    assert calls == ["memory", "decode", "decode"]
    assert set(read_json(tmp_path / "benchmark.json")) == {"memory", "decode"}
    with pytest.raises(ValueError, match=r"holds results of the quick form: use another folder"):
        suite.run_groups(["memory"], Settings(), tmp_path)


def test_ratios_are_taken_within_rounds():
    spread = ratio([2.0, 6.0, None, 8.0], [1.0, 2.0, 1.0, None])
    assert (spread.median, spread.low, spread.high) == (2.5, 2.25, 2.75)
    assert ratio([1.0, None], [None, 1.0]) is None


def test_floor_is_the_time_of_the_arithmetic_at_the_best_rate():
    scenario = {
        "flops": 4e9,
        "product": {"flops": 2e9, "seconds": [0.5, 0.25]},
        "entries": [{"name": "it", "seconds": [1.0, None, 2.0]}],
    }
    assert above_floor(scenario, "it") == pytest.approx(3.0)
    assert above_floor(scenario, "another") is None and above_floor(None, "it") is None


def test_bounds_hold_in_their_direction():
    assert Target("", 2.0, True, 2.5).met is True
    assert Target("", 2.0, True, 1.5).met is False
    assert Target("", 1.1, False, 1.2).met is False
    assert Target("", 1.1, False, None).met is None


def test_every_scenario_has_the_baseline_first():
    for settings in (Settings(), QUICK):
        for scenario in operators.scenarios(settings):
            assert scenario.candidates[0].name == operators.BASELINE, scenario.label


def test_the_gpu_script_checks_what_it_times_and_records_what_fails(tmp_path):
    """In Triton's interpreter, where it times nothing; a library that is not there fails, and the rest goes on."""
    command = [sys.executable, "-m", "training_scripts.benchmark.gpu", "--small", "--output", tmp_path]
    command += ["--parts", "check,peers,causal,decoding", "--limit", "300"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    (path,) = tmp_path.glob("gpu-no-gpu-torch*-triton*.json")
    parts = read_json(path)["parts"]
    assert [row["passed"] for row in parts["check"]] == [True, True]
    errors = [row["error"] for part in ("causal", "decoding") for row in parts[part] if "error" in row]
    assert len(errors) == 4 and max(errors) < 1e-6
    assert run.returncode == 1 and ["failure" in row for row in parts["peers"]] == [True], run.stderr


def test_the_gpu_script_names_parts_that_there_are():
    command = [sys.executable, "-m", "training_scripts.benchmark.gpu", "--parts", "check,speed"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and "there are no parts ['speed'], but ['check', 'causal'" in run.stderr
