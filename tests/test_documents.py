"""The documents hold: generated tables are current, examples run, configs load, the guide's family is a family."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import transformers
import yaml

import hf_effattn
from hf_effattn.lra import get_task
from hf_effattn.training.recipes import read_recipe
from tests.models.variants import random_ids
from training_scripts import readme_tables, ship_checkpoint


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIGS = sorted((ROOT / "modeling_configs").glob("*.json"))


def code_blocks(document, language):
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def test_generated_tables_are_current():
    assert readme_tables.with_tables(README) == README, "run: python -m training_scripts.readme_tables"
    with pytest.raises(ValueError, match="needs the markers <!-- families -->"):
        readme_tables.with_tables("no markers")


@pytest.mark.parametrize("number", range(5))
def test_readme_examples_run(number, tmp_path):
    block = code_blocks(README, "python")[number]
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    if "path/to/checkpoint" in block:
        config = hf_effattn.SimpleTronConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
        model = hf_effattn.SimpleTronForSequenceClassification(config)
        hf_effattn.export_checkpoint(model, hf_effattn.byte_tokenizer(4096), tmp_path / "model")
        block = block.replace("path/to/checkpoint", str(tmp_path / "model"))
    subprocess.run([sys.executable, "-c", block], check=True, cwd=tmp_path)


def test_every_python_example_of_the_readme_is_run():
    assert len(code_blocks(README, "python")) == 5, "raise the range above"


CARDS = sorted((ROOT / "model_cards").iterdir())


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_shipped_cards_are_current(folder, tmp_path, monkeypatch):
    shipped = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sum(map(len, shipped.values())) < 5e6
    monkeypatch.setattr(ship_checkpoint, "CARDS", tmp_path)
    ship_checkpoint.main([str(folder), folder.name])
    made = {path.name: path.read_bytes() for path in (tmp_path / folder.name).iterdir()}
    assert made == shipped, f"run: python training_scripts/ship_checkpoint.py {folder} {folder.name}"


def test_the_shipped_model_has_the_accuracy_that_it_claims():
    folder = ROOT / "model_cards/simpletron-reviews"
    claimed = json.loads((folder / "results.json").read_text())["test"]
    rows = get_task("text").load("package")["test"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    right = 0
    for batch in rows.iter(256):
        inputs = tokenizer(batch["text"], truncation=True, padding=True, return_tensors="pt")
        with torch.no_grad():
            right += int((model(**inputs).logits.argmax(-1) == torch.tensor(batch["label"])).sum())
    share = claimed["test_accuracy"]
    # Sums in another order may turn a review that is on the edge.
    assert abs(right - len(rows) * share) <= 2
    assert f"{share:.1%}".replace("%", " %") in README


def test_the_shipped_model_comes_from_its_recipe():
    results = json.loads((ROOT / "model_cards/simpletron-reviews/results.json").read_text())
    recorded = results["arguments"] | results["training_arguments"]
    recipe = read_recipe(ROOT / "training_scripts/recipes/sentiment.yaml")
    assert {name: recorded[name] for name in recipe} == recipe


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_modeling_configs_load_and_build(path):
    config = transformers.AutoConfig.from_pretrained(path)
    assert path.stem.startswith(f"{config.model_type}-")
    images = config.num_channels is not None
    auto_class = "AutoModelForImageClassification" if images else "AutoModelForSequenceClassification"
    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(config)
    assert model.num_parameters() > 0


#: Parameters that the authors print, by config; options; and what ours has beside theirs, in rows of `hidden_size`:
#: in text retrieval two more ids in the vocabulary.
PUBLISHED = [
    ("simpletron-lra2022-listops", {}, 19_443_722, 0),
    ("vanilla_transformer-lra2022-listops", {}, 21_019_658, 0),
    ("simpletron-lra2022-retrieval", {}, 1_535_490, 2),
    ("vanilla_transformer-lra2022-retrieval", {}, 1_601_538, 2),
    *[
        (f"kernel_transformer-lra2022-{task}", options, total + added, rows)
        for task, total, rows, kernels in (
            ("listops", 21_019_658, 0, (393_216, 786_432, 884_736)),
            ("retrieval", 1_601_538, 2, (16_384, 32_768, 36_864)),
        )
        for added, options in zip(
            kernels,
            (
                {"num_kernel_layers": 1},
                {"num_kernel_layers": 2},
                {"feature_map": "low_rank_glu", "num_kernel_layers": 3},
            ),
            strict=True,
        )
    ],
]


@pytest.mark.parametrize(("name", "options", "published", "rows"), PUBLISHED)
def test_configs_have_the_parameters_that_the_authors_print(name, options, published, rows):
    config = transformers.AutoConfig.from_pretrained(ROOT / f"modeling_configs/{name}.json", **options)
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    assert model.num_parameters() == published + rows * config.hidden_size


LRA = {path.stem: json.loads(path.read_text()) for path in CONFIGS if path.stem.count("-") == 2}


@pytest.mark.parametrize("name", LRA)
def test_configs_of_the_arenas_have_the_skeleton_of_the_authors(name):
    config = transformers.AutoConfig.from_pretrained(ROOT / f"modeling_configs/{name}.json")
    dropouts = {field: value for field, value in config.to_dict().items() if "dropout" in field}
    inside = "kernel_dropout_prob" if config.model_type == "kernel_transformer" else "attention_probs_dropout_prob"
    rate = 0.0 if config.num_channels else 0.1
    assert dropouts == dict.fromkeys(dropouts, 0.0) | {"hidden_dropout_prob": rate, inside: rate}
    assert not config.has_embedding_norm
    assert config.has_last_norm == (config.pair_features is None)
    assert config.init_scheme in ("authors", "authors_2021")
    assert config.cls_position == (config.model_type == "memory_transformer")
    assert len(config.classifier_widths) == (1 if "listops" in name or "text" in name else 2)


def test_configs_have_what_their_runs_had():
    simpletron, kernels = (f"{family}-lra2022" for family in ("simpletron", "kernel_transformer"))
    assert [LRA[f"{family}-retrieval"]["num_attention_heads"] for family in (simpletron, kernels)] == [8, 8]
    for task, penalty in (("text", 0.01), ("listops", 0), ("retrieval", 0)):
        assert LRA[f"{kernels}-{task}"]["orthogonality_penalty"] == penalty
        assert LRA[f"{kernels}-{task}"]["normalizer_eps"] == 0
        for family in (simpletron, kernels):
            scheme = "authors" if task == "text" else "authors_2021"
            assert LRA[f"{family}-{task}"]["init_scheme"] == scheme
            assert LRA[f"{family}-{task}"].get("classifier_act") == ("relu" if task == "retrieval" else None)
    assert LRA["kernel_transformer-authors-text"]["orthogonality_penalty"] == 0.02
    for task in ("text", "listops", "retrieval", "image", "pathfinder"):
        assert LRA[f"convluna-authors-{task}"]["unpack_temperature"] == "unit"


@pytest.mark.parametrize("path", sorted((ROOT / "training_scripts/recipes/full").glob("*.yaml")), ids=str)
def test_recipes_of_the_authors_train_in_full_precision(path):
    assert not {"fp16", "bf16"} & read_recipe(path).keys()


def test_the_citation_has_the_papers_of_the_readme():
    papers = README.split("## Papers")[1].split("##")[0]
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    assert [paper["url"].rsplit("/", 1)[1] for paper in references] == re.findall(r"\d{4}\.\d{5}", papers)
    for paper in references:
        names = ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
        assert f"{names}: *{paper['title']}*" in " ".join(papers.split())


NEW_FAMILY = """
import sys, pytest, torch, transformers
import hf_effattn
from hf_effattn.families import find

sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
config = hf_effattn.MeanFormerConfig(**sizes, is_decoder=True, gain=2.0)
model = transformers.AutoModel.from_config(config).eval()
assert type(model) is hf_effattn.MeanFormerModel is find("mean_former").model_class("AutoModel")
ids = torch.randint(4, 200, (2, 9))
whole = model(ids).last_hidden_state
first = model(ids[:, :4])
rest = model(ids[:, 4:], cache=first.cache).last_hidden_state
torch.testing.assert_close(rest, whole[:, 4:])
weights = model(ids, output_attentions=True, use_cache=False).attentions[0]
torch.testing.assert_close(weights.sum(-1), torch.full((2, 2, 9), 2.0))
assert hf_effattn.diagnose(model, input_ids=ids).keys() >= {"layer_0/state_norm", "layer_0/denominator_min"}
hf_effattn.MeanFormerForMaskedLM(hf_effattn.MeanFormerConfig(**sizes)).save_pretrained(sys.argv[1])
# What no test has an entry for keeps the promises with its defaults.
assert pytest.main(["-q", "-p", "no:cacheprovider", "-k", "mean_former", *sys.argv[2:]]) == 0
"""

#: Tests of the suite that the example has to pass: promises, and what every config and every dropout keeps.
PROMISES = [
    *(
        f"tests/models/test_promises.py::test_{name}"
        for name in ("incremental_equals_full", "encoders_see_everything")
    ),
    *(
        f"tests/models/test_configs.py::test_{name}"
        for name in ("dropouts_act_in_training_only", "every_field_changes_something")
    ),
    "tests/models/test_config_checks.py::test_a_family_is_described_whole",
    "tests/models/test_heads.py::test_head",
]


def with_changes(text, diff):
    """The text after a diff whose hunks say by their lines where they belong."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def test_the_guide_knows_every_room():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in guide.splitlines() if line.startswith("| `")]
    # The last two rows are beside the package.
    rooms = {name.removeprefix("hf_effattn/").strip("/").removesuffix(".py") for row in rows[:-2] for name in row}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert rooms == {room for layer in contracts[0]["layers"] for room in layer.split(" | ")}


def test_the_guide_to_a_new_family_works(tmp_path):
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    config, modeling = code_blocks(guide, "python")
    (diff,) = code_blocks(guide, "diff")
    for name in ("hf_effattn", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "hf_effattn"
    changed = [package / f"models/{name}_mean_former.py" for name in ("configuration", "modeling")]
    changed.append(package / "families.py")
    texts = [config, modeling, with_changes(changed[-1].read_text(), diff)]
    for path, text in zip(changed, texts, strict=True):
        path.write_text(text)
    for action in (["check"], ["format", "--check"]):
        subprocess.run([Path(sys.executable).with_name("ruff"), *action, *changed], check=True, cwd=tmp_path)
    command = [sys.executable, "-c", NEW_FAMILY, str(tmp_path / "saved"), *PROMISES]
    subprocess.run(command, check=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"})
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert model(random_ids(1, 5)).logits.shape == (1, 5, 260)
