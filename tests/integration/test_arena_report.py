"""What the report of the arena makes of results: differences, tables, plots, and guesses beside them."""

import dataclasses
import math

import numpy as np
import pytest
import yaml
from datasets import Dataset
from scipy import stats

from hf_effattn.data.checksums import content_checksum
from hf_effattn.files import read_json, write_json
from hf_effattn.lra import get_task
from tests.integration.conftest import RECIPE, VARIANTS, outcome
from training_scripts.arena import report, tables
from training_scripts.arena.claims import Claim, Difference, claims, difference
from training_scripts.arena.measurements import read_measurements
from training_scripts.arena.plan import read_plan
from training_scripts.arena.plots import write_plots
from training_scripts.arena.result_lines import decode, encode
from training_scripts.arena.results import RESULTS, changed_results, save_outcome
from training_scripts.arena.scores import Scores, read_scores


GUESSES = {"small": {"commonest": 0.125, "cue": "the place", "from_cue": 0.25}}


def test_differences_are_taken_seed_by_seed_with_their_interval(filled, results):
    table = read_scores(filled, results)
    found = difference(table, ["small"], [("convluna", "luna")])
    assert found.values == pytest.approx((0.20, 0.21))
    low, high = stats.t.interval(0.95, 1, loc=found.mean, scale=stats.sem(found.values))
    # Of 1,000 rows each; the two have 0.555 and 0.35 of them right on average.
    sampling = math.sqrt((0.555 * 0.445 + 0.35 * 0.65) / 1000)
    assert found.sampling == pytest.approx(sampling)
    assert found.half_width == pytest.approx(math.hypot((high - low) / 2, 1.959964 * sampling))
    assert found.verdict == "better"
    assert difference(table, ["small"], [("luna", "convluna")]).verdict == "worse"
    assert difference(table, ["small"], [("softmax", "luna")]).verdict == "undecided", "0.2 and 0.3"
    assert difference(table, ["small"], [("nystrom", "luna")]) is None
    twice = difference(table, ["small", "small"], [("convluna", "luna")])
    assert twice.values == pytest.approx(found.values)
    assert twice.sampling == pytest.approx(found.sampling / math.sqrt(2)), "two tasks have rows of their own"
    both = difference(table, ["small"], [("convluna", "luna"), ("luna", "luna")])
    assert both.values == pytest.approx((0.10, 0.105))
    other = math.sqrt(2 * 0.35 * 0.65 / 1000)
    assert both.sampling == pytest.approx((sampling + other) / 2), "two pairs have the same rows"
    assert Difference((0.3,), 0.0).verdict == "undecided", "one seed says nothing"
    assert Difference((0.03, 0.03), 0.02).verdict == "undecided", "so many rows say nothing"
    assert Difference((0.05, 0.05), 0.02).verdict == "better"


def test_tables_say_what_there_is(filled, results):
    table = read_scores(filled, results)
    rows = {row.split("|")[1].strip(): row for row in tables.main_table(filled, table, GUESSES).splitlines()}
    assert "60.0 ± 14.1" in rows["softmax"]
    assert "fails" in rows["Nystrom"]
    assert "12.5" in rows["guess: the commonest label"] and "25.0" in rows["guess: from a cue"]
    assert "guess" not in tables.main_table(filled, table, {})
    assert "30.0 40.0" in tables.seeds_table(filled, table)
    assert tables.errors_list(filled, table) == "- Nystrom on Small: `ValueError: too long`"
    filter_claim, luna_claim, _, softmax_claim = claims(filled)
    assert "+20.5 ± 7.7" in tables.claim_table(filled, table, filter_claim)
    told = tables.verdict(filled, table, filter_claim, GUESSES)
    assert told.startswith("Of 1 pairs of a variant and a task, 1 are better") and "guesses" not in told
    assert tables.verdict(filled, table, softmax_claim, GUESSES) == "No pair has been run yet."
    assert luna_claim.pairs == (("convluna", "luna"),)


def test_what_is_not_above_the_guesses_is_marked(filled, results):
    # Luna has 30 and 40 percent of 1,000 rows right, with intervals that begin at 27.2 and 37.0.
    table = read_scores(filled, results)
    for commonest, from_cue, marked in ((0.31, 0.1, False), (0.33, 0.1, True), (0.1, 0.33, True), (0.31, None, False)):
        guesses = {"small": GUESSES["small"] | {"commonest": commonest, "from_cue": from_cue}}
        rows = {row.split("|")[1].strip(): row for row in tables.main_table(filled, table, guesses).splitlines()}
        assert ("35.0 ± 7.1°" in rows["Luna"]) == marked
        assert "°" not in rows["softmax"] and "°" not in rows["Nystrom"]
    claim = Claim("made up", (("convluna", "luna"), ("luna", "luna")))
    assert "mean of these" not in tables.claim_table(filled, table, claims(filled)[0]), "a single pair"
    assert "| mean of these   | +10.2 ±" in tables.claim_table(filled, table, claim).replace("**", "")
    told = tables.verdict(filled, table, claim, {"small": GUESSES["small"] | {"commonest": 0.33}})
    assert "the mean difference is +10.2 points" in told
    assert told.endswith(
        "In 1 of them neither is above the guesses; without these, the mean difference is +20.5 points, "
        "the median +20.5."
    )


def test_averages_are_given_without_the_tasks_that_stand_apart(filled, results):
    table = read_scores(filled, results)
    both = {"small": "Small", "other": "Other"}
    plan = dataclasses.replace(filled, tasks=filled.tasks | {"other": filled.tasks["small"]}, titles=both)
    table |= {("other", name): table["small", name] for name in VARIANTS} | {("small", "luna"): Scores()}
    assert list(plan.averaged()) == ["mean"]
    apart = dataclasses.replace(plan, apart=("small",))
    assert apart.averaged() == {"mean": ["small", "other"], "without Small": ["other"]}
    rows = {row.split("|")[1].strip(): row.split("|") for row in tables.main_table(apart, table, {}).splitlines()}
    assert [cell.strip() for cell in rows["Luna"][4:6]] == ["–", "35.0"]
    assert [cell.strip() for cell in rows["ConvLuna"][4:6]] == ["55.5", "55.5"]
    told = tables.verdict(apart, table, claims(apart)[0], {})
    assert "; the mean difference is +20.5 points, the median +20.5. Without Small, the mean difference" in told


def test_the_table_of_variants_compares_their_parameters(filled, results):
    table = read_scores(filled, results)
    table["small", "luna"].outcomes[0]["parameters"] = 1200
    rows = {row.split("|")[1].strip(): row for row in tables.variants_table(filled, table).splitlines()}
    assert "`memory_size=" in rows["Luna"] and "| 1,200 " in rows["Luna"] and "| -34 " in rows["Luna"]
    assert "| 1,234 " in rows["softmax"] and "| +0 " in rows["softmax"]
    assert tables.span([3, 1, 2], "{:+,}") == "+1 to +3"


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
    peaks = {"luna": cost | {"peak_bytes": 1}, "softmax": {"fingerprint": "0"}}
    write_json(results / "memory.json", {"small": peaks, "gone": peaks})
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
        found = read_measurements(filled, read_scores(filled, results), results)
        assert set(found["guesses"]) == kept
    assert {task: set(listed["variants"]) for task, listed in found["costs"].items()} == {"small": {"luna"}}
    assert found["costs"]["small"]["variants"]["luna"] == cost | {"peak_bytes": 1}
    assert set(found["padding"]) == {"luna"}
    assert read_measurements(filled, read_scores(filled, results), results / "nowhere") == {
        "costs": {},
        "padding": {},
        "guesses": {},
    }


def test_at_equal_time_the_slow_have_made_fewer_steps(filled, results):
    table = read_scores(filled, results)
    costs = {
        "small": {
            "variants": {
                "softmax": {"error": None, "seconds": [0.123, 0.123, 0.4]},
                "luna": {"error": None, "seconds": [0.07, 0.07, 0.07]},
                "convluna": {"error": "ValueError"},
            }
        }
    }
    text = tables.equal_time_table(filled, table, costs)
    rows = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in text.splitlines()}
    assert rows["Luna"] == "35.0 ± 7.1 (100%)", "the fastest has made all its steps, whatever the rounding"
    assert rows["softmax"] == "20.0 ± 4.7 (57%)", "three of six steps: the evaluation after two of them is the last"
    assert rows["ConvLuna"] == "–"


def test_the_report_and_its_plots_come_from_the_results_alone(filled, results, tmp_path):
    table = read_scores(filled, results)
    padding = {name: {kind: {"difference": 1e-7, "error": None} for kind in ("added", "content")} for name in VARIANTS}
    padding["nystrom"]["added"] = {"difference": None, "error": "RuntimeError: shape"}
    text = report.render(filled, table, {"padding": padding, "guesses": GUESSES})
    assert "6 of 8 runs are done, and 2 have failed" in text
    assert "with one version of the package's code." in text
    assert text.count("Not measured yet.") == 1, "costs, and with them accuracy at equal time"
    assert "- Small: the place" in text
    assert "`RuntimeError: shape`" in text and "the worst of our 3 variants" in text
    times = {"seconds": [0.1, 0.1, None], "bf16_seconds": [0.2, 0.05, None]}
    cost = {"error": None, **times, "peak_bytes": 5 * 2**20, "state_bytes": 2 * 2**20}
    costs = {"small": {"environment": {"torch_threads": 1}, "variants": {"luna": cost, "nystrom": {"error": "x"}}}}
    text = report.render(filled, table, {"costs": costs})
    assert "100 ms, 3 MiB" in text and "side by side on 1 thread\n" in text and "35.0 ± 7.1 (100%)" in text
    assert "all training steps of the arena take 0.0 hours of one core" in text
    assert tables.core_hours(filled, costs) == pytest.approx(2 * RECIPE["max_steps"] * 0.1 / 3600), "two seeds"
    assert tables.bf16_table(filled, costs).splitlines()[2:] == ["| Luna | 1.25    |"]
    assert text.count("Not measured yet.") == 1, "what padding does"
    for outcome_of_luna in table["small", "luna"].outcomes.values():
        outcome_of_luna["code"] = None
    assert "of the package's code; 2 of the runs do not record which." in report.render(filled, table, {})
    assert write_plots(filled, table, tmp_path) == ["arena-learning.svg", "arena-memory.svg"]
    first = (tmp_path / "arena-memory.svg").read_bytes()
    write_plots(filled, table, tmp_path)
    assert (tmp_path / "arena-memory.svg").read_bytes() == first


def test_guesses_say_the_commonest_label_of_the_training_rows(plan_file, tmp_path):
    from training_scripts.arena.guesses import CUES, READ_BYTES, guess, labels_of, main, nothing

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
    halves = {"text": ["I say", "It is", "so do I."], "pair_text": ["I'd go", "I am", "x" * 255 + " I"]}
    assert CUES["retrieval_reviews"][1](halves).tolist() == [3, 1, 2]
    assert read_plan().tasks["retrieval_reviews"]["max_length"] == READ_BYTES + 1, "and [CLS]"
    # Most pairs of the first have the value 2, of the second 1, and of the third 0 or 1.
    recall = Dataset.from_dict({"labels": [[-100, 2, 2, 3], [1, -100, 1, 0], [0, 1, 0, 1]]})
    _, cue = CUES["recall_small"]
    assert cue(recall.with_format("numpy")[:]).tolist() == [2, 2, 2, 1, 1, 1, 0, 0, 0, 0]
    assert guess(recall, recall.select([0, 1]), cue) == pytest.approx(4 / 6)
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


def test_results_on_other_data_are_refused(filled, results):
    run = filled.runs()[0]
    with changed_results("small", results) as found:
        found[run.key]["outcome"]["data"] = {"test": {"rows": 1000, "sha256": "1"}}
    with pytest.raises(ValueError, match="was made on other data than the other runs of its task"):
        read_scores(filled, results)


def test_a_cell_says_how_many_seeds_it_has(filled, results):
    with changed_results("small", results) as found:
        del found["luna", 1]
    rows = tables.main_table(filled, read_scores(filled, results), {})
    assert "30.0 (1 seed)" in rows


def test_the_second_measure_of_a_step_is_that_of_other_weights(filled, results):
    run = filled.run("small", filled.variants["luna"], 0)
    made = outcome(0.3)
    made.log.append({"step": 6, "diagnostics/layer_0/memory_cosine": 99.0})
    save_outcome(run, made, results)
    assert read_scores(filled, results)["small", "luna"].diagnostic("memory_cosine")[6] == pytest.approx(0.6)


def test_the_report_in_the_repository_is_current(tmp_path):
    report.main(["--output", str(tmp_path / "RESULTS.md")])
    current = report.REPORT.read_text()
    assert (tmp_path / "RESULTS.md").read_text() == current, "run: python -m training_scripts.arena.report"
    for plot in tmp_path.glob("*.svg"):
        assert plot.read_bytes() == (report.REPORT.parent / plot.name).read_bytes(), plot.name


def test_the_result_files_in_the_repository_have_their_form():
    files = sorted(RESULTS.glob("*.jsonl"))
    assert [path.stem for path in files] == sorted(read_plan().tasks)
    for path in files:
        assert encode(decode(path)) == path.read_text(), path


def test_a_task_without_its_data_is_left_out_and_named(plan_file, tmp_path, monkeypatch):
    from training_scripts.arena import costs, guesses, memory

    pictures = RECIPE | {"task": "fashion_mnist", "max_length": 785, "source": str(tmp_path / "nowhere")}
    (plan_file.parent / "recipes" / "other.yaml").write_text(yaml.safe_dump(pictures))
    content = yaml.safe_load(plan_file.read_text())
    content["tasks"] = {"other": "Other"} | content["tasks"]
    plan_file.write_text(yaml.safe_dump(content, sort_keys=False))
    command = ["--plan", str(plan_file), "--output", str(tmp_path / "measured.json")]
    with pytest.raises(SystemExit, match="other is left out: there is no folder"):
        guesses.main(command)
    assert set(read_json(tmp_path / "measured.json")) == {"small"}
    (tmp_path / "measured.json").unlink()
    with pytest.raises(SystemExit, match="other/luna is left out: ValueError: there is no folder"):
        memory.main([*command[:-1], str(tmp_path / "peaks.json"), "--task", "other"])
    measure_task = costs.measure_task
    monkeypatch.setattr(costs, "measure_task", lambda *to: {} if to[1] == "small" else measure_task(*to))
    with pytest.raises(SystemExit, match="other is left out: there is no folder"):
        costs.main(command)
    assert set(read_json(tmp_path / "measured.json")["tasks"]) == {"small"}


def test_a_plan_cannot_set_apart_what_it_does_not_have(plan_file):
    content = yaml.safe_load(plan_file.read_text())
    plan_file.write_text(yaml.safe_dump(content | {"apart": ["recall"]}))
    with pytest.raises(ValueError, match=r"`apart` names unknown tasks \['recall'\]"):
        read_plan(plan_file)
