"""The arena: what is complete is never trained again, what is not is never trusted, and tables say what there is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset
from scipy import stats
from transformers import HfArgumentParser, TrainingArguments

from hf_effattn.files import read_json, write_json
from hf_effattn.lra import get_task
from hf_effattn.lra.checksums import content_checksum
from hf_effattn.training.lra import LraArguments, build_model, model_config, prepare
from hf_effattn.training.recipes import parse_recipe


sys.path.append(str(Path(__file__).parents[2] / "training_scripts"))

from arena import report, tables
from arena import run as arena
from arena.cells import read_cells
from arena.claims import Claim, Difference, claims, difference, overall
from arena.measured import read_measured
from arena.plan import read_plan
from arena.plots import write_plots
from arena.results import load_result, result_path, store_error, store_outcome


SCRIPTS = Path(__file__).parents[2] / "training_scripts"
RECIPE = {
    "task": "recall_small",
    "source": "generated",
    "max_length": 64,
    "model_size": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "validation_rows": 8,
    "test_rows": 16,
}
VARIANTS = {
    "softmax": {"title": "softmax", "model_type": "vanilla_transformer"},
    "luna": {"title": "Luna", "model_type": "luna", "options": {"memory_size": 4}},
    "convluna": {
        "title": "ConvLuna",
        "model_type": "convluna",
        "options": {"memory_size": 4},
        "filtered": "luna",
        "against_luna": "luna",
    },
    "nystrom": {
        "title": "Nystrom",
        "model_type": "nystromformer",
        # It cannot divide 64 tokens among seven landmarks.
        "options": {"num_landmarks": 7},
        "against_softmax": "softmax",
    },
}


@pytest.fixture
def plan_file(tmp_path):
    """A small arena of its own."""
    content = {
        "recipes": "recipes",
        "seeds": [0, 1],
        "tasks": {"small": "Small"},
        "options": {"pooling": "mean"},
        "builtin_options": {"initializer_range": 0.1},
        "variants": VARIANTS,
    }
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "arena.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "arena.yaml"


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def command(plan_file, *arguments):
    folder = plan_file.parent
    return ["--plan", plan_file, "--results", folder / "results", "--runs", folder / "runs", *arguments]


def run_arena(plan_file, *arguments):
    """The exit status of the runner."""
    with pytest.raises(SystemExit) as ended:
        arena.main([str(part) for part in command(plan_file, *arguments)])
    return ended.value.code


def outcome(accuracy, steps=6):
    """What `store_outcome` takes of a run."""
    log = [{"step": step, "eval_accuracy": accuracy * step / steps, "eval_loss": 1.0} for step in (2, 4, 6)]
    log += [{"step": step, "diagnostics/layer_0/memory_cosine": 0.1 * step} for step in (2, 4, 6)]
    return {
        "log": [*log, {"step": 6, "loss": 0.5}],
        "parameters": 1234,
        "steps": steps,
        "best_step": 6,
        "validation_accuracy": accuracy,
        "test": {
            "test_accuracy": accuracy,
            "test_accuracy_low": accuracy - 0.1,
            "test_accuracy_high": accuracy + 0.1,
            "test_loss": 0.7,
        },
        "data": {split: {"rows": 8, "sha256": "0"} for split in ("train", "validation", "test")},
        "backends": None,
        "code": "0" * 64,
        "environment": {
            "device": "cpu",
            "torch_threads": 1,
            "python": "3",
            "versions": {"torch": "2", "transformers": "5"},
        },
    }


GUESSES = {"small": {"commonest": 0.125, "cue": "the place", "from_cue": 0.25}}
SCORES = {"softmax": (0.5, 0.7), "luna": (0.30, 0.40), "convluna": (0.5, 0.61)}


@pytest.fixture
def filled(plan_file, results):
    """The plan, with made-up results of three variants and the error of the fourth."""
    plan = read_plan(plan_file)
    for run in plan.runs():
        if run.variant.name in SCORES:
            store_outcome(run, outcome(SCORES[run.variant.name][run.seed]), results)
        else:
            store_error(run, "ValueError: too long", results)
    return plan


def test_a_run_is_trained_once_and_its_result_is_whole(plan_file, results):
    chosen = ["--variant", "luna", "--seed", "0"]
    assert run_arena(plan_file, *chosen) == 0
    run = next(run for run in read_plan(plan_file).runs() if run.variant.name == "luna")
    found = load_result(run, results)
    assert found["error"] is None and found["fingerprint"] == run.fingerprint
    assert [point["step"] for point in found["outcome"]["curve"]] == [2, 4, 6]
    assert found["outcome"]["data"]["test"]["rows"] == 16
    assert [entry["step"] for entry in found["outcome"]["diagnostics"]] == [2, 4, 6]
    assert all("layer_0/memory_cosine" in entry for entry in found["outcome"]["diagnostics"])
    assert len(found["outcome"]["code"]) == 64
    assert not list((plan_file.parent / "runs").rglob("checkpoint-*")), "a complete run leaves nothing behind"
    written = result_path(run, results).stat().st_mtime_ns
    assert run_arena(plan_file, *chosen) == 0
    assert result_path(run, results).stat().st_mtime_ns == written


def test_a_killed_run_goes_on_and_leaves_no_result(plan_file, results, monkeypatch):
    # Long enough to be killed on the way.
    monkeypatch.setitem(RECIPE, "max_steps", 400)
    (plan_file.parent / "recipes" / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    script = [sys.executable, SCRIPTS / "arena" / "run.py"]
    chosen = command(plan_file, "--variant", "softmax", "--seed", "0")
    process = subprocess.Popen([*map(str, script), *map(str, chosen)], start_new_session=True)
    runs = plan_file.parent / "runs"
    deadline = time.monotonic() + 120
    while not list(runs.rglob("checkpoint-2/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run = read_plan(plan_file).runs()[0]
    assert list(runs.rglob("checkpoint-2")) and load_result(run, results) is None, "it was killed on its way"
    seen = []
    monkeypatch.setattr(arena.shutil, "rmtree", lambda folder: seen.append((folder / "output.log").read_text()))
    assert run_arena(plan_file, "--variant", "softmax", "--seed", "0") == 0
    assert "resuming from" in seen[0]
    assert load_result(run, results)["outcome"]["steps"] == RECIPE["max_steps"]


def test_what_fails_in_a_model_of_transformers_is_a_result(plan_file, results):
    assert run_arena(plan_file, "--variant", "nystrom", "--seed", "0") == 0
    run = next(run for run in read_plan(plan_file).runs() if run.variant.name == "nystrom")
    found = load_result(run, results)
    assert found["outcome"] is None and "RuntimeError" in found["error"]


def test_what_fails_for_another_reason_is_none(plan_file, results, capsys):
    recipe = plan_file.parent / "recipes" / "small.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"source": "nowhere"}))
    assert run_arena(plan_file, "--variant", "luna", "nystrom", "--seed", "0", "--workers", "2") == 1
    assert capsys.readouterr().out.count("unknown source 'nowhere'") == 2
    assert not list(results.rglob("*.json"))


def test_nothing_starts_after_the_time_is_up(plan_file, results):
    assert run_arena(plan_file, "--minutes", "0") == 1
    assert not list(results.rglob("*.json"))


def test_a_result_of_another_recipe_is_refused_unless_it_is_to_be_replaced(plan_file, results, filled):
    recipe = plan_file.parent / "recipes" / "small.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"learning_rate": 0.5}))
    with pytest.raises(ValueError, match=r"another recipe, which differs in \['learning_rate'\]: restore the recipe"):
        arena.main([str(part) for part in command(plan_file)])
    assert run_arena(plan_file, "--replace-stale", "--minutes", "0") == 1
    assert not list(results.rglob("seed-*.json"))


def test_a_damaged_result_is_refused(plan_file, results, filled):
    path = result_path(filled.runs()[0], results)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"seed-0\.json is damaged .* delete it and run again"):
        read_cells(filled, results)
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no result of a run: delete it"):
        read_cells(filled, results)


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
    with pytest.raises(ValueError, match=r"variant 'luna' refers to \['nothing'\], which there are not"):
        read_plan(plan_file)
    content["variants"]["luna"] = {"titel": "Luna", "model_type": "luna"}
    plan_file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"variant 'luna' has unknown fields \['titel'\]"):
        read_plan(plan_file)


def test_differences_are_taken_seed_by_seed_with_their_interval(filled, results):
    cells = read_cells(filled, results)
    found = difference(cells, "small", "convluna", "luna")
    assert found.values == pytest.approx((0.20, 0.21))
    low, high = stats.t.interval(0.95, 1, loc=found.mean, scale=stats.sem(found.values))
    assert found.half_width == pytest.approx((high - low) / 2)
    assert found.verdict == "better"
    assert difference(cells, "small", "luna", "convluna").verdict == "worse"
    assert difference(cells, "small", "softmax", "luna").verdict == "undecided", "0.2 and 0.3"
    assert difference(cells, "small", "nystrom", "luna") is None
    assert overall(cells, ["small"], "convluna", "luna").values == pytest.approx(found.values)
    assert Difference((0.3,)).verdict == "undecided", "one seed says nothing"


def test_tables_say_what_there_is(filled, results):
    cells = read_cells(filled, results)
    rows = {row.split("|")[1].strip(): row for row in tables.main_table(filled, cells, GUESSES).splitlines()}
    assert "60.0 ± 14.1" in rows["softmax"]
    assert "fails" in rows["Nystrom"]
    assert "12.5" in rows["guess: the commonest label"] and "25.0" in rows["guess: from a cue"]
    assert "guess" not in tables.main_table(filled, cells, {})
    assert "30.0 40.0" in tables.seeds_table(filled, cells)
    assert tables.errors_list(filled, cells) == "- Nystrom on Small: `ValueError: too long`"
    filter_claim, luna_claim, _, softmax_claim = claims(filled)
    assert "+20.5 ± 6.4" in tables.claim_table(filled, cells, filter_claim)
    told = tables.verdict(filled, cells, filter_claim, GUESSES)
    assert told.startswith("Of 1 pairs of a variant and a task, 1 are better") and "chance" not in told
    assert tables.verdict(filled, cells, softmax_claim, GUESSES) == "No pair has been run yet."
    assert luna_claim.pairs == (("convluna", "luna"),)


def test_what_is_not_above_the_commonest_label_is_marked(filled, results):
    # Luna has 30 and 40 percent, each with an interval that begins ten points below.
    cells = read_cells(filled, results)
    for commonest, marked in ((0.24, False), (0.26, True)):
        guesses = {"small": GUESSES["small"] | {"commonest": commonest}}
        rows = {row.split("|")[1].strip(): row for row in tables.main_table(filled, cells, guesses).splitlines()}
        assert ("35.0 ± 7.1°" in rows["Luna"]) == marked
        assert "°" not in rows["softmax"] and "°" not in rows["Nystrom"]
    claim = Claim("made up", (("convluna", "luna"), ("luna", "luna")))
    told = tables.verdict(filled, cells, claim, {"small": GUESSES["small"] | {"commonest": 0.26}})
    assert "the mean difference is +10.2 points" in told
    assert told.endswith(
        "In 1 of them both are at chance; without these, the mean difference is +20.5 points, the median +20.5."
    )


def test_what_was_measured_on_something_else_is_left_out(filled, results):
    run = filled.run("small", filled.variants["luna"], 0)
    entry = {"added": 1, "content": 1}
    cost = {"fingerprint": run.fingerprint, "error": None, "seconds": [1.0]}
    write_json(
        results / "costs.json",
        {
            "tasks": {
                "small": {"environment": {}, "variants": {"luna": cost, "softmax": cost, "gone": cost}},
                "gone": {"environment": {}, "variants": {"luna": cost}},
            }
        },
    )
    write_json(
        results / "padding.json",
        {
            "luna": entry | {"options": filled.options_of(filled.variants["luna"])},
            "softmax": entry | {"options": {"pooling": "cls", "else": 1}},
            "gone": entry | {"options": {}},
        },
    )
    guess = {"commonest": 0.1, "cue": None, "from_cue": None}
    for checksum, kept in (("0", {"small"}), ("1", set())):
        write_json(results / "guesses.json", {"small": guess | {"sha256": checksum}, "gone": guess | {"sha256": "0"}})
        found = read_measured(filled, read_cells(filled, results), results)
        assert set(found["guesses"]) == kept
    assert {task: set(listed["variants"]) for task, listed in found["costs"].items()} == {"small": {"luna"}}
    assert set(found["padding"]) == {"luna"}
    assert read_measured(filled, read_cells(filled, results), results / "nowhere") == {
        "costs": {},
        "padding": {},
        "guesses": {},
    }


def test_at_equal_time_the_slow_have_made_fewer_steps(filled, results):
    cells = read_cells(filled, results)
    costs = {
        "small": {
            "variants": {
                "softmax": {"error": None, "seconds": [0.123, 0.123, 0.4]},
                "luna": {"error": None, "seconds": [0.07, 0.07, 0.07]},
                "convluna": {"error": "ValueError"},
            }
        }
    }
    text = tables.equal_time_table(filled, cells, costs)
    rows = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in text.splitlines()}
    assert rows["Luna"] == "35.0 ± 7.1 (100%)", "the fastest has made all its steps, whatever the rounding"
    assert rows["softmax"] == "20.0 ± 4.7 (57%)", "three of six steps: the evaluation after two of them is the last"
    assert rows["ConvLuna"] == "–"


def test_the_report_and_its_plots_come_from_the_results_alone(filled, results, tmp_path):
    cells = read_cells(filled, results)
    padding = {name: {kind: {"difference": 1e-7, "error": None} for kind in ("added", "content")} for name in VARIANTS}
    padding["nystrom"]["added"] = {"difference": None, "error": "RuntimeError: shape"}
    text = report.render(filled, cells, {"padding": padding, "guesses": GUESSES})
    assert "6 of 8 runs are done, and 2 have failed" in text
    assert "with one state of the package's code." in text
    assert text.count("Not measured yet.") == 2, "costs, and with them accuracy at equal time"
    assert "- Small: the place" in text
    assert "`RuntimeError: shape`" in text and "the worst of our 3 variants" in text
    cost = {"error": None, "seconds": [0.1, 0.1, 0.1], "peak_bytes": 5 * 2**20, "state_bytes": 2 * 2**20}
    costs = {"small": {"environment": {"torch_threads": 2}, "variants": {"luna": cost, "nystrom": {"error": "x"}}}}
    text = report.render(filled, cells, {"costs": costs})
    assert "100 ms, 3 MiB" in text and "on 2 threads" in text and "35.0 ± 7.1 (100%)" in text
    assert text.count("Not measured yet.") == 1, "what padding does"
    for outcome_of_luna in cells["small", "luna"].outcomes.values():
        outcome_of_luna["code"] = None
    assert "of the package's code; 2 of the runs do not say with which." in report.render(filled, cells, {})
    assert write_plots(filled, cells, tmp_path) == ["arena-learning.svg", "arena-memory.svg"]
    first = (tmp_path / "arena-memory.svg").read_bytes()
    write_plots(filled, cells, tmp_path)
    assert (tmp_path / "arena-memory.svg").read_bytes() == first


def test_guesses_say_the_commonest_label_of_the_training_rows(plan_file, tmp_path):
    from arena.guesses import CUES, guess, labels_of, main, nothing

    train = Dataset.from_dict({"text": ["[CLS] [MIN 1 [MAX 2", "[CLS] [MAX 1", "[CLS] [MIN 2"], "label": [3, 4, 3]})
    test = Dataset.from_dict({"text": ["[CLS] [MAX 1 2", "[CLS] [MIN 4", "[CLS] [SM 1"], "label": [4, 3, 3]})
    assert guess(train, test, nothing) == pytest.approx(2 / 3)
    assert guess(train, test, CUES["listops_short"][1]) == 1, "an operator that training lacks gets the commonest"
    # The circle, 256, is at the pixel before or behind the one that is asked.
    pixels = Dataset.from_dict(
        {"input_ids": [[256, 9, 1], [1, 9, 256], [1, 9, 256]], "labels": [[-100, 1, -100], [-100, 0, 0], [-100, 0, 0]]}
    )
    assert guess(pixels, pixels.select([0]), CUES["pathfinder_tracing"][1]) == 1
    assert guess(pixels, pixels.select([0]), nothing) == 0
    main(["--plan", str(plan_file), "--output", str(tmp_path / "guesses.json")])
    splits = get_task("recall_small").load("generated")
    train, test = (
        labels_of(split.with_format("numpy")[:]) for split in (splits["train"], splits["test"].select(range(16)))
    )
    expected = (test == np.bincount(train).argmax()).mean()
    checksum = content_checksum(splits["test"].select(range(16)))
    assert read_json(tmp_path / "guesses.json") == {
        "small": {"sha256": checksum, "commonest": pytest.approx(expected), "cue": None, "from_cue": None}
    }


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


def test_costs_are_those_of_a_training_step(plan_file, tmp_path):
    from arena.costs import main, memory_point

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
    main(["--plan", str(plan_file), "--output", str(tmp_path / "costs.json"), "--budget", "0.1"])
    found = read_json(tmp_path / "costs.json")["tasks"]["small"]["variants"]
    assert all(seconds > 0 for seconds in found["luna"]["seconds"])
    assert found["nystrom"]["error"].startswith("RuntimeError")
    measured_at = (tmp_path / "costs.json").stat().st_mtime_ns
    main(["--plan", str(plan_file), "--output", str(tmp_path / "costs.json")])
    assert (tmp_path / "costs.json").stat().st_mtime_ns == measured_at, "what is measured is not measured again"


def test_memory_grows_with_the_batch(plan_file):
    from arena.costs import measure_memory

    peaks = []
    for batch in (4, 512):
        recipe = RECIPE | {"per_device_train_batch_size": batch}
        (plan_file.parent / "recipes" / "small.yaml").write_text(yaml.safe_dump(recipe))
        peaks.append(measure_memory(plan_file, "small", "luna")["peak_bytes"])
    # A row has 64 tokens of 16 features, of which more than ten are kept for the backward pass.
    assert peaks[1] - peaks[0] > 500 * 64 * 16 * 4 * 10


def test_results_on_other_data_are_refused(filled, results):
    run = filled.runs()[0]
    path = result_path(run, results)
    content = read_json(path)
    content["outcome"]["data"]["test"]["sha256"] = "1"
    write_json(path, content)
    with pytest.raises(ValueError, match="was made on other data than the other runs of its task"):
        read_cells(filled, results)


def test_a_cell_says_how_many_seeds_it_has(filled, results):
    result_path(filled.run("small", filled.variants["luna"], 1), results).unlink()
    rows = tables.main_table(filled, read_cells(filled, results), {})
    assert "30.0 (1 seed)" in rows


def test_the_second_measure_of_a_step_is_that_of_other_weights(filled, results):
    run = filled.run("small", filled.variants["luna"], 0)
    made = outcome(0.3)
    made["log"].append({"step": 6, "diagnostics/layer_0/memory_cosine": 99.0})
    store_outcome(run, made, results)
    assert read_cells(filled, results)["small", "luna"].diagnostic("memory_cosine")[6] == pytest.approx(0.6)


def test_the_report_in_the_repository_is_current(tmp_path):
    report.main(["--output", str(tmp_path / "RESULTS.md")])
    current = report.REPORT.read_text()
    assert (tmp_path / "RESULTS.md").read_text() == current, "run: python training_scripts/arena/report.py"
    for plot in tmp_path.glob("*.svg"):
        assert plot.read_bytes() == (report.REPORT.parent / plot.name).read_bytes(), plot.name
