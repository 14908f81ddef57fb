"""How models are put together: the blocks that they name, one `post_init`, and checkpointing of every kind."""

import inspect
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_effattn.models.skeleton_block import EffAttnBlock, ResidualBlock
from tests.models.variants import FAMILIES, over_families, over_heads, over_variants, padded, random_ids, tiny_model
from tests.numerics import assert_close


FSDP = Path(__file__).parents[2] / "training_scripts" / "launch" / "fsdp.yaml"
AUTO_CLASSES = ("AutoModel", *(name for name in FAMILIES[0].class_names if name.startswith("AutoModelFor")))
IDS, MASK = padded([random_ids(1, 13)[0], random_ids(1, 7)[0]], "right")


def model_of(family, auto_class, **options):
    return tiny_model(family, auto_class, **options, **({"num_channels": 1} if "Image" in auto_class else {}))


@over_heads(*AUTO_CLASSES)
def test_every_block_is_named_where_models_are_split(family, auto_class):
    """FSDP, accelerate's device maps and gradient checkpointing find blocks by these names."""
    model = model_of(family, auto_class)
    blocks = {type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)}
    assert blocks == set(model._no_split_modules)
    assert blocks == {type(layer).__name__ for layer in (model.base_model.layers)}
    assert all(name in FSDP.read_text() for name in blocks)


@over_families
def test_recorded_outputs_come_from_modules_that_a_model_has(family):
    model = tiny_model(family)
    for recorded in (model._can_record_outputs or {}).values():
        assert any(isinstance(module, recorded) for module in model.modules())


@over_families
def test_blocks_are_siblings_that_take_what_their_attention_takes(family):
    block = tiny_model(family).layers[0]
    assert type(block) is EffAttnBlock or not isinstance(block, EffAttnBlock)
    assert isinstance(block, ResidualBlock)
    taken = [inspect.signature(type(part).forward).parameters for part in (block, block.attention)]
    assert list(taken[0]) == list(taken[1])


@over_heads(*AUTO_CLASSES)
def test_every_model_is_finished_once(family, auto_class, monkeypatch):
    """A head's base model is a model of its own."""
    finished = []
    post_init = PreTrainedModel.post_init
    monkeypatch.setattr(PreTrainedModel, "post_init", lambda self: finished.append(self) or post_init(self))
    model = model_of(family, auto_class)
    assert len(finished) == len({id(one) for one in finished})
    assert {id(one) for one in finished} == {id(model), id(model.base_model)}


def gradients(model, auto_class, checkpointing):
    if checkpointing is not None:
        model.gradient_checkpointing_enable(checkpointing)
    torch.manual_seed(4)
    labels = IDS if "LM" in auto_class else torch.tensor([0, 1])
    model.train()(IDS, attention_mask=MASK, labels=labels).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@over_variants
@pytest.mark.parametrize("auto_class", ["AutoModelForCausalLM", "AutoModelForSequenceClassification"])
def test_reentrant_checkpointing_is_exact_or_refused(family, options, auto_class):
    if auto_class not in family.class_names:
        return
    options = options | {"hidden_dropout_prob": 0.2}
    model = tiny_model(family, auto_class, **options)
    if not model.reentrant_checkpointing:
        for asked in ({"use_reentrant": True}, {"preserve_rng_state": True}):
            with pytest.raises(ValueError, match=r'lose gradients of .*pass .*=\{"use_reentrant": False\}'):
                model.gradient_checkpointing_enable(asked)
        assert not any(layer.gradient_checkpointing for layer in model.model.layers)
        asked = {"use_reentrant": False}
    else:
        asked = {"use_reentrant": True}
    found = gradients(model, auto_class, asked)
    expected = gradients(tiny_model(family, auto_class, **options), auto_class, None)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(name, found[name], gradient)


def test_a_model_whose_blocks_return_lists_is_refused_reentrant_checkpointing():
    refusing = {family.model_type for family in FAMILIES if not tiny_model(family).reentrant_checkpointing}
    assert refusing == {"memory_transformer"}
