"""Recipes: every file is one for its script, and what they say arrives."""

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_effattn.lra import get_task
from hf_effattn.training.lra import LraArguments
from hf_effattn.training.recipes import parse_recipe, read_recipe
from hf_effattn.training.user_data import UserRunArguments
from tests.integration.user_runs import SCRIPTS, script


RECIPES = SCRIPTS / "recipes"
#: The arguments of the scripts for data of one's own; the other recipes are those of ``run_lra.py``.
OWN = {
    "classification.yaml": script("run_classification").ClassificationArguments,
    "mlm.yaml": script("run_mlm").MaskedArguments,
    "clm.yaml": UserRunArguments,
}


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_is_one_of_its_script(path):
    recipe = read_recipe(path)
    own = OWN.get(str(path.relative_to(RECIPES)))
    model = {"model_type": "simpletron"} if "model_size" in recipe else {"model_config": "config.json"}
    given = {"recipe": path} | model | ({} if own is None else {"train_file": "rows.csv"})
    parser = HfArgumentParser((own or LraArguments, TrainingArguments))
    run, training = parse_recipe(parser, [f"--{name}={value}" for name, value in given.items()])
    for name, value in recipe.items():
        found = getattr(run if hasattr(run, name) else training, name)
        if name == "source" and value is None:
            value = get_task(run.task).sources[0]
        assert getattr(found, "value", found) == value, name
    assert training.load_best_model_at_end and training.eval_strategy == training.save_strategy


def test_a_recipe_turns_off_what_is_on_by_default(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("remove_unused_columns: false\nweight_decay: 1\naccelerator_config: {even_batches: false}\n")
    parser = HfArgumentParser((UserRunArguments, TrainingArguments))
    _, training = parse_recipe(parser, ["--train_file=x.csv", "--model_config=c", "--recipe", str(recipe)])
    assert training.remove_unused_columns is False
    assert training.weight_decay == 1.0 and isinstance(training.weight_decay, float)
    assert training.accelerator_config.even_batches is False


def test_a_recipe_is_read_however_its_option_is_spelt(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_steps: 7\n")
    for spelt in ([f"--recipe={recipe}"], ["--recipe", str(recipe)], [f"--recip={recipe}"]):
        parser = HfArgumentParser((UserRunArguments, TrainingArguments))
        _, training = parse_recipe(parser, ["--train_file=x.csv", "--model_config=c", *spelt])
        assert training.max_steps == 7, spelt
