"""The arena: what is complete is never trained again, and what is not is never trusted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_effattn.files import read_json, write_json
from hf_effattn.lra import get_task
from hf_effattn.training.lra import LraArguments, build_model, model_config, prepare
from hf_effattn.training.recipes import parse_recipe
from tests.integration.conftest import RECIPE, outcome
from training_scripts.arena import run as arena
from training_scripts.arena.plan import read_plan
from training_scripts.arena.result_lines import decode
from training_scripts.arena.results import (
    changed_results,
    load_results,
    read_results,
    read_run_files,
    result_file,
    save_error,
    save_outcome,
)
from training_scripts.arena.scores import read_scores


def command(plan_file, *arguments):
    folder = plan_file.parent
    return ["--plan", plan_file, "--results", folder / "results", "--runs", folder / "runs", *arguments]


def run_arena(plan_file, *arguments):
    """The exit status of the runner."""
    with pytest.raises(SystemExit) as ended:
        arena.main([str(part) for part in command(plan_file, *arguments)])
    return ended.value.code


def test_a_run_is_trained_once_and_its_result_is_whole(plan_file, results):
    chosen = ["--variant", "luna", "--seed", "0"]
    assert run_arena(plan_file, *chosen) == 0
    run = next(run for run in read_plan(plan_file).runs() if run.variant.name == "luna")
    found = load_results([run], results)[run.name]
    assert found["error"] is None and found["fingerprint"] == run.fingerprint
    assert [point["step"] for point in found["outcome"]["curve"]] == [2, 4, 6]
    assert found["outcome"]["data"]["test"]["rows"] == 16
    assert [entry["step"] for entry in found["outcome"]["diagnostics"]] == [2, 4, 6]
    assert all("layer_0/memory_cosine" in entry for entry in found["outcome"]["diagnostics"])
    assert len(found["outcome"]["code"]) == 64
    assert not list((plan_file.parent / "runs").rglob("checkpoint-*")), "a complete run leaves nothing behind"
    written = result_file("small", results).stat().st_mtime_ns
    assert run_arena(plan_file, *chosen) == 0
    assert result_file("small", results).stat().st_mtime_ns == written


def test_a_killed_run_goes_on_and_leaves_no_result(plan_file, results, monkeypatch):
    # Long enough to be killed on the way.
    monkeypatch.setitem(RECIPE, "max_steps", 400)
    (plan_file.parent / "recipes" / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    script = [sys.executable, "-m", "training_scripts.arena.run"]
    chosen = command(plan_file, "--variant", "softmax", "--seed", "0")
    process = subprocess.Popen([*script, *map(str, chosen)], start_new_session=True)
    runs = plan_file.parent / "runs"
    deadline = time.monotonic() + 120
    while not list(runs.rglob("checkpoint-2/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run = read_plan(plan_file).runs()[0]
    assert list(runs.rglob("checkpoint-2")) and load_results([run], results).get(run.name) is None, (
        "it was killed on its way"
    )
    seen = []
    monkeypatch.setattr(arena.shutil, "rmtree", lambda folder: seen.append((folder / "output.log").read_text()))
    assert run_arena(plan_file, "--variant", "softmax", "--seed", "0") == 0
    assert "resuming from" in seen[0]
    assert load_results([run], results)[run.name]["outcome"]["steps"] == RECIPE["max_steps"]


def test_results_that_are_cut_are_those_of_no_run(plan_file, results, tmp_path, monkeypatch):
    run = next(run for run in read_plan(plan_file).runs() if run.variant.name == "luna")
    workers = arena.Workers(SimpleNamespace(runs=tmp_path / "runs", results=results, minutes=None))
    folder = tmp_path / "runs" / f"{run.name}-{run.fingerprint[:12]}"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"te')
    calls = []
    monkeypatch.setattr(workers, "call", lambda run, folder: calls.append(write_json(folder / "results.json", whole)))
    whole = outcome(0.5).to_dict()
    assert workers.train_one(run) is None
    assert len(calls) == 1 and load_results([run], results)[run.name]["outcome"]["test_accuracy"] == 0.5


def test_what_fails_in_a_model_of_transformers_is_a_result(plan_file, results):
    assert run_arena(plan_file, "--variant", "nystrom", "--seed", "0") == 0
    run = next(run for run in read_plan(plan_file).runs() if run.variant.name == "nystrom")
    found = load_results([run], results)[run.name]
    assert found["outcome"] is None and "RuntimeError" in found["error"]


def test_what_fails_for_another_reason_is_none(plan_file, results, capsys):
    recipe = plan_file.parent / "recipes" / "small.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"source": "nowhere"}))
    assert run_arena(plan_file, "--variant", "luna", "nystrom", "--seed", "0", "--workers", "2") == 1
    assert capsys.readouterr().out.count("unknown source 'nowhere'") == 2
    assert not list(results.rglob("*.json*"))


def test_nothing_starts_after_the_time_is_up(plan_file, results):
    assert run_arena(plan_file, "--minutes", "0") == 1
    assert not list(results.rglob("*.json*"))


def test_a_result_of_another_recipe_is_refused_unless_it_is_to_be_replaced(plan_file, results, filled):
    recipe = plan_file.parent / "recipes" / "small.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"learning_rate": 0.5}))
    with pytest.raises(ValueError, match=r"another recipe, which differs in \['learning_rate'\]: restore the recipe"):
        arena.main([str(part) for part in command(plan_file)])
    assert run_arena(plan_file, "--replace-stale", "--minutes", "0") == 1
    assert not load_results(read_plan(plan_file).runs(), results)


def test_a_damaged_file_is_refused_and_never_written_over(plan_file, results, filled):
    path = result_file("small", results)
    whole = path.read_text()
    lines = whole.splitlines()
    another = {"schema_version": 2}
    for damaged, message in (
        (whole[:-100], rf"line {len(lines)} of .*small\.jsonl is damaged .*: restore the file, or delete the line"),
        ("\n".join([lines[0], *lines[2:]]), r"is damaged \(KeyError: "),
        (whole + lines[-1], rf"line {len(lines) + 1} of .* is a second result of \('softmax', 1\): delete one"),
        ("{}", r"small\.jsonl does not begin as a file of results does: restore it"),
        ("", r"small\.jsonl does not begin as a file of results does: restore it"),
        ("\n".join([json.dumps(another), *lines[1:]]), "has schema version 2, and this code reads version 1"),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=message):
            read_scores(filled, results)
        with pytest.raises(ValueError, match=message):
            arena.main([str(part) for part in command(plan_file, "--replace-stale")])
        assert path.read_text() == damaged


def test_one_file_per_run_is_read_and_goes_over_into_the_file_of_the_task(filled, results):
    """The form that earlier versions wrote."""
    whole = read_results("small", results)
    result_file("small", results).unlink()
    for (variant, seed), result in whole.items():
        write_json(results / "small" / variant / f"seed-{seed}.json", result)
    assert read_results("small", results) == whole
    run = filled.run("small", filled.variants["luna"], 1)
    save_outcome(run, outcome(0.9), results)
    assert decode(result_file("small", results)).keys() == whole.keys()
    changed = read_results("small", results)
    assert changed.pop(run.key)["outcome"]["test_accuracy"] == 0.9
    whole.pop(run.key)
    assert changed == whole
    path = results / "small" / "luna" / "seed-0.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"seed-0\.json is not the result of a run: delete it"):
        read_run_files(results / "small")
    path.write_text('{"er')
    with pytest.raises(ValueError, match=r"seed-0\.json is damaged .* delete it and run again"):
        read_run_files(results / "small")


def measured(entries):
    return {"fingerprint": "f", "arguments": {"seed": 0}, "error": None, "outcome": {"diagnostics": entries}}


@pytest.mark.parametrize(
    "result",
    [
        measured([]),
        measured([{}, {}]),
        measured([{"step": 1, "loss": 0.1}, {"step": 2}]),
        measured([{"step": 1, "loss": 1e-300}, {"step": 1, "loss": float("inf")}]),
        measured([{"step": 1}]) | {"error": "ValueError: \u2028 two lines"},
        {"fingerprint": "f", "arguments": {}, "error": "it fails", "outcome": None},
        {"fingerprint": "f", "arguments": {}, "error": None, "outcome": {"data": None, "backends": {}, "new": [{}]}},
    ],
)
def test_a_result_is_read_as_it_was_written(result, tmp_path):
    with changed_results("small", tmp_path) as results:
        results["luna", 0] = results["luna", 1] = result
    assert read_results("small", tmp_path) == {("luna", 0): result, ("luna", 1): result}


def test_writers_at_the_same_time_lose_no_result(plan_file, results):
    first, second, *_ = read_plan(plan_file).runs()
    other = threading.Thread(target=save_error, args=(second, "ValueError: second", results))
    with changed_results("small", results) as found:
        other.start()
        # Long enough for it to write, if it did not wait.
        other.join(timeout=0.5)
        found[first.key] = {"fingerprint": first.fingerprint, "arguments": {}, "error": "first", "outcome": None}
    other.join()
    assert {key: result["error"] for key, result in read_results("small", results).items()} == {
        first.key: "first",
        second.key: "ValueError: second",
    }


def test_two_arenas_do_not_write_to_one_folder(plan_file, results):
    from filelock import FileLock

    results.mkdir()
    with FileLock(results / ".lock"):
        assert "another arena writes to" in run_arena(plan_file)


def test_unknown_names_are_refused(plan_file):
    with pytest.raises(ValueError, match=r"unknown variant \['lunar'\]; the plan has"):
        arena.main([str(part) for part in command(plan_file, "--variant", "lunar")])


def test_a_plan_that_refers_to_nothing_is_refused(plan_file):
    content = yaml.safe_load(plan_file.read_text())
    content["variants"]["luna"]["filtered"] = "nothing"
    plan_file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"variant 'luna' refers to unknown variants \['nothing'\]"):
        read_plan(plan_file)
    content["variants"]["luna"] = {"titel": "Luna", "model_type": "luna"}
    plan_file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"variant 'luna' has unknown fields \['titel'\]"):
        read_plan(plan_file)


def test_every_run_of_the_real_plan_has_a_model():
    plan = read_plan()
    assert len(plan.seeds) >= 3
    for task, recipe in plan.tasks.items():
        for variant in plan.variants.values():
            run = plan.run(task, variant, 0)
            lra, _ = parse_recipe(HfArgumentParser((LraArguments, TrainingArguments)), run.command_line())
            task_of_run = get_task(lra.task)
            config = model_config(lra, task_of_run)
            build_model(lra, task_of_run.for_plain_tokens() if variant.builtin else task_of_run, config)
            assert lra.diagnose == (not variant.builtin and variant.model_type != "vanilla_transformer")
        # Ten evaluations, so that the curves have as many points.
        assert recipe["max_steps"] == 10 * recipe["eval_steps"], task


def test_times_are_those_of_a_training_step(plan_file, tmp_path):
    from training_scripts.arena.costs import main

    main(["--plan", str(plan_file), "--output", str(tmp_path / "costs.json"), "--budget", "0.1"])
    found = read_json(tmp_path / "costs.json")["tasks"]["small"]["variants"]
    for times in ("seconds", "bf16_seconds"):
        assert all(seconds > 0 for seconds in found["luna"][times])
    assert len(found["luna"]["bf16_seconds"]) == len(found["luna"]["seconds"]), "in the same rounds"
    assert found["nystrom"]["error"].startswith("RuntimeError") and "bf16_seconds" not in found["nystrom"]
    measured_at = (tmp_path / "costs.json").stat().st_mtime_ns
    main(["--plan", str(plan_file), "--output", str(tmp_path / "costs.json")])
    assert (tmp_path / "costs.json").stat().st_mtime_ns == measured_at, "what is measured is not measured again"


def test_memory_is_that_of_a_training_step(plan_file, tmp_path):
    from training_scripts.arena.memory import main, memory_point

    plan = read_plan(plan_file)
    point = memory_point(plan.run("small", plan.variants["luna"], 0))
    model = prepare(
        LraArguments(
            task="recall_small",
            model_type="luna",
            model_size=RECIPE["model_size"],
            model_options={"memory_size": 4, "pooling": "mean"},
            max_length=64,
        )
    ).model
    assert point["state_bytes"] == 3 * 4 * model.num_parameters()
    main(["--plan", str(plan_file), "--output", str(tmp_path / "memory.json")])
    found = read_json(tmp_path / "memory.json")["small"]
    assert found["luna"]["state_bytes"] == point["state_bytes"] and found["luna"]["peak_bytes"] > 0
    assert found["nystrom"]["error"].startswith("RuntimeError")
    measured_at = (tmp_path / "memory.json").stat().st_mtime_ns
    main(["--plan", str(plan_file), "--output", str(tmp_path / "memory.json")])
    assert (tmp_path / "memory.json").stat().st_mtime_ns == measured_at, "what is measured is not measured again"


def test_steps_under_autocast_are_computed_in_bfloat16(plan_file):
    from training_scripts.arena.costs import step_of

    plan = read_plan(plan_file)
    step = step_of(plan.run("small", plan.variants["luna"], 0))
    seen = []
    step.model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step()
    step(bf16=True)
    assert seen == [torch.float32, torch.bfloat16]


def test_memory_grows_with_the_batch(plan_file):
    from training_scripts.arena.memory import measure

    peaks = []
    for batch in (4, 512):
        recipe = RECIPE | {"per_device_train_batch_size": batch}
        (plan_file.parent / "recipes" / "small.yaml").write_text(yaml.safe_dump(recipe))
        plan = read_plan(plan_file)
        peaks.append(measure(plan_file, plan.run("small", plan.variants["luna"], 0))["peak_bytes"])
    # A row has 64 tokens of 16 features, of which more than ten are kept for the backward pass.
    assert peaks[1] - peaks[0] > 500 * 64 * 16 * 4 * 10
