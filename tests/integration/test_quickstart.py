"""The quickstart from its data to its page, with few reviews, two models and short texts."""

import json
from types import SimpleNamespace

import pytest
from transformers import pipeline

from training_scripts.quickstart import __main__ as quickstart
from training_scripts.quickstart.tables import YARDSTICK
from training_scripts.readme_tables import quickstart_results


RECIPE = """
text_column: text
label_column: label
max_length: 32
max_steps: 2
per_device_train_batch_size: 8
eval_strategy: steps
save_strategy: steps
eval_steps: 2
save_steps: 2
logging_steps: 1
load_best_model_at_end: true
metric_for_best_model: accuracy
"""


@pytest.mark.slow
def test_the_quickstart_leaves_models_a_table_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "MODELS", ("vanilla_transformer", "convluna"))
    monkeypatch.setattr(quickstart, "LENGTHS", (16, 32))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    arguments = ["--output_dir", str(tmp_path / "run"), "--recipe", str(tmp_path / "recipe.yaml"), "--rows", "24"]
    quickstart.main(arguments)
    printed = capsys.readouterr().out
    assert printed.count("loads without hf_effattn and without network") == 2
    page = (tmp_path / "run/report.html").read_text()
    for content in (YARDSTICK, "convluna", "data:image/svg+xml;base64,", "data:image/png;base64,"):
        assert content in page
    assert "http" not in page, "the page opens without network"
    classify = pipeline("text-classification", str(tmp_path / "run/convluna/model"), trust_remote_code=True)
    assert classify("A film to remember.")[0]["label"] in ("negative", "positive")
    kept = quickstart_results(tmp_path / "run")
    assert kept["models"].keys() == kept["lengths"].keys() == {"vanilla_transformer", "convluna"}
    assert [point["length"] for point in kept["lengths"]["convluna"]] == [16, 32]
    assert str(tmp_path) not in json.dumps(kept)

    tokenizer = (tmp_path / "run/data/tokenizer/tokenizer.json").read_text()

    def stop(*args, **options):
        raise AssertionError("what is there is not made again")

    monkeypatch.setattr(quickstart, "subprocess", SimpleNamespace(run=stop))
    monkeypatch.setattr(quickstart, "verify", lambda folder, reviews: 0.0)
    quickstart.main(arguments)
    assert "already trained" in capsys.readouterr().out
    kept_tokenizer = (tmp_path / "run/data/tokenizer/tokenizer.json").read_text()
    assert kept_tokenizer == tokenizer, "learned anew, it would be another one"
    with pytest.raises(ValueError, match=r"train\.jsonl has other reviews: choose another --output_dir"):
        quickstart.main([*arguments[:-1], "25"])


@pytest.mark.parametrize(("results", "trains"), [(None, True), ("", True), ('{"te', True), ('{"steps": 8}', False)])
def test_it_goes_on_with_models_that_have_no_whole_results(tmp_path, monkeypatch, results, trains):
    commands = []

    def run(command, **options):
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(quickstart.subprocess, "run", run)
    (tmp_path / "simpletron").mkdir()
    if results is not None:
        (tmp_path / "simpletron/results.json").write_text(results)
    quickstart.train("simpletron", tmp_path, "recipe.yaml")
    assert len(commands) == trains


def test_a_training_that_fails_names_its_output(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart.subprocess, "run", lambda command, **options: SimpleNamespace(returncode=3))
    with pytest.raises(RuntimeError, match=r"failed with exit code 3: see .*simpletron\.log"):
        quickstart.train("simpletron", tmp_path, "recipe.yaml")
