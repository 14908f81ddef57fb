"""The number of learned positions can be changed, and never without a word."""

import pytest
import torch

from hf_effattn.families import find
from tests.models.variants import FAMILIES, over_families, over_heads, random_ids, tiny_model
from tests.numerics import assert_close


@over_heads("AutoModel", "AutoModelForCausalLM", "AutoModelForTokenClassification")
def test_positions_can_be_added_and_taken_away(family, auto_class, tmp_path):
    model = tiny_model(family, auto_class)
    model.get_position_embeddings().weight.requires_grad_(False)
    ids = random_ids(2, 20)
    expected = model(ids, return_dict=False)[0]
    for number in (90, 20):
        table = model.resize_position_embeddings(number)
        assert table is model.get_position_embeddings()
        weight = table.weight
        assert (weight.shape, weight.dtype, weight.requires_grad) == ((number, 24), torch.float64, False)
        assert model.config.max_position_embeddings == number
        assert_close("output", model(ids, return_dict=False)[0], expected)
    assert model.resize_position_embeddings(22).weight[20:].abs().max() == 0
    with pytest.raises(ValueError, match="23 positions, more than max_position_embeddings=22"):
        model(random_ids(1, 23))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype="auto").eval()
    assert_close("output", again(ids, return_dict=False)[0], expected)


def test_a_table_without_the_first_position_is_resized_as_well():
    model = tiny_model(FAMILIES[0], cls_position=False)
    ids = random_ids(1, 20)
    expected = model(ids)[0]
    for number in (90, 20):
        assert model.resize_position_embeddings(number).num_embeddings == number - 1
        assert_close("hidden states", model(ids)[0], expected)


def test_a_number_of_positions_that_cannot_be_changes_nothing():
    family = find("memory_transformer")
    model = tiny_model(family, segment_length=30)
    for number in (0, 29):
        with pytest.raises(ValueError, match="max_position_embeddings"):
            model.resize_position_embeddings(number)
    assert model.config.max_position_embeddings == model.get_position_embeddings().num_embeddings == 80
    assert model.resize_position_embeddings(30).num_embeddings == 30


@over_families
def test_positions_of_another_number_are_not_set_to_zero(family, tmp_path):
    """Other layers may get new weights, as a classifier of other classes needs."""
    auto_class = "AutoModelForSequenceClassification"
    model = tiny_model(family, auto_class)
    model.save_pretrained(tmp_path)
    load = family.model_class(auto_class).from_pretrained
    with pytest.raises(ValueError, match=r"call model\.resize_position_embeddings\(90\)"):
        load(tmp_path, max_position_embeddings=90, ignore_mismatched_sizes=True)
    other, info = load(tmp_path, num_labels=5, ignore_mismatched_sizes=True, output_loading_info=True)
    assert other(random_ids(1, 3)).logits.shape == (1, 5)
    assert {name for name, *_ in info["mismatched_keys"]} == {"classifier.logits.bias", "classifier.logits.weight"}
    assert load(tmp_path, num_labels=5, ignore_mismatched_sizes=True)(random_ids(1, 3)).logits.shape == (1, 5)
