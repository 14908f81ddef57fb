"""The options of the skeleton against their equations: norms, positions, the skip of a block, layers of heads."""

import pytest
import torch
from transformers.activations import ACT2FN

from tests.models.variants import MEMORY_FAMILIES, over_families, padded, random_ids, tiny_model
from tests.numerics import assert_close


over_norms = pytest.mark.parametrize("norm_position", ["pre", "post"])


@over_families
@over_norms
@pytest.mark.parametrize("chosen", [None, True, False])
def test_norms_after_the_embeddings_and_after_the_last_block(family, norm_position, chosen):
    options = {"norm_position": norm_position, "embedding_norm": chosen, "last_norm": chosen}
    model = tiny_model(family, **options)
    embedding_norm = (norm_position == "post") if chosen is None else chosen
    last_norm = (norm_position == "pre") if chosen is None else chosen
    assert (model.embeddings.norm is not None) == embedding_norm
    assert isinstance(model.norm, torch.nn.LayerNorm) == last_norm
    content, position_ids = torch.randn(2, 5, 24, dtype=torch.float64), torch.arange(5)[None]
    plain = content + model.embeddings.positions(position_ids)
    expected = model.embeddings.norm(plain) if embedding_norm else plain
    assert_close("embeddings", model.embeddings(content, position_ids), expected)
    last = {}
    model.layers[-1].register_forward_hook(lambda module, given, output: last.update(output=output))
    hidden = model(random_ids(2, 7)).last_hidden_state
    left = last["output"][0] if isinstance(last["output"], tuple) else last["output"]
    assert_close("last hidden state", hidden, model.norm(left) if last_norm else left)


@pytest.mark.parametrize("family", [f for f in MEMORY_FAMILIES if "luna" in f.model_type], ids=lambda f: f.model_type)
@over_norms
def test_a_memory_that_is_read_has_the_last_norm_of_the_tokens(family, norm_position):
    for last_norm in (True, False):
        model = tiny_model(family, pooling="memory", norm_position=norm_position, last_norm=last_norm)
        last = {}
        model.layers[-1].register_forward_hook(lambda module, given, output, last=last: last.update(memory=output[1]))
        memory = model(random_ids(2, 7)).memory
        assert_close("memory", memory, model.memory_norm(last["memory"]) if last_norm else last["memory"])
        assert isinstance(model.memory_norm, torch.nn.LayerNorm) == last_norm
    unread = tiny_model(family, norm_position=norm_position, last_norm=True)
    assert isinstance(unread.memory_norm, torch.nn.Identity), "it would have no gradient"


@over_families
@over_norms
@pytest.mark.parametrize("block_skip", [False, True])
def test_the_skip_of_a_block(family, norm_position, block_skip):
    block = tiny_model(family, norm_position=norm_position, block_skip=block_skip).layers[0]
    x, attended = torch.randn(2, 2, 5, 24, dtype=torch.float64)
    if norm_position == "pre":
        between = x + attended
        expected = between + block.mlp(block.mlp_norm(between)) + block_skip * x
    else:
        between = block.attention_norm(x + attended)
        expected = block.mlp_norm(between + block.mlp(between) + block_skip * x)
    assert_close("block", block.add_branches(x, attended), expected)


@over_families
def test_a_cls_without_a_position(family):
    model = tiny_model(family, cls_position=False)
    assert model.embeddings.positions.weight.shape == (79, 24)
    content = torch.randn(1, 80, 24, dtype=torch.float64)
    embedded = model.embeddings(content, torch.arange(80)[None])
    norm = model.embeddings.norm or torch.nn.Identity()
    assert_close("[CLS]", embedded[:, 0], norm(content[:, 0]))
    assert_close("tokens", embedded[:, 1:], norm(content[:, 1:] + model.embeddings.positions.weight))
    with pytest.raises(
        ValueError, match=r"position_ids must lie in \[0, max_position_embeddings=80\), got .* 0 to 80"
    ):
        model.embeddings(content, torch.tensor([[0, 80]]))
    # Wherever the padding is, the first real token is the one without a position.
    rows = [random_ids(1, 9)[0], random_ids(1, 4)[0]]
    for side in ("left", "right"):
        ids, mask = padded(rows, side)
        together = model(ids, attention_mask=mask).last_hidden_state
        for i, row in enumerate(rows):
            assert_close(f"{side} {i}", together[i][mask[i] == 1], model(row[None]).last_hidden_state[0])


@over_families
def test_a_cls_in_front_of_pixels_without_a_position(family):
    model = tiny_model(family, num_channels=1, cls_position=False, max_position_embeddings=13)
    pixels = model.embeddings.embed_pixels(torch.rand(1, 1, 3, 4, dtype=torch.float64))
    embedded = model.embeddings(pixels, torch.arange(13)[None])
    norm = model.embeddings.norm or torch.nn.Identity()
    assert_close("[CLS]", embedded[0, 0], norm(model.embeddings.cls))
    assert_close("pixels", embedded[0, 1:], norm(pixels[0, 1:] + model.embeddings.positions.weight))


#: Options of a classifier -> widths of its hidden layers, and what they read.
HEADS = [
    ({}, [32], 24),
    ({"classifier_hidden_size": 10}, [10], 24),
    ({"classifier_hidden_size": 10, "pair_features": "concat"}, [10, 5], 48),
    ({"classifier_hidden_size": [10, 7]}, [10, 7], 24),
    ({"classifier_hidden_size": [10, 7, 6], "pair_features": "interaction"}, [10, 7, 6], 96),
    ({"classifier_hidden_size": []}, [], 24),
    ({"classifier_hidden_size": [7], "classifier_act": "relu"}, [7], 24),
]


@over_families
@pytest.mark.parametrize(("options", "widths", "inputs"), HEADS, ids=[str(list(o.values())) for o, _, _ in HEADS])
def test_hidden_layers_of_a_classification_head(family, options, widths, inputs):
    head = tiny_model(family, "AutoModelForSequenceClassification", num_labels=3, **options).classifier
    assert [layer.out_features for layer in head.hidden] == widths
    x = expected = torch.randn(2, inputs, dtype=torch.float64)
    for layer in head.hidden:
        expected = ACT2FN[options.get("classifier_act", "gelu")](expected @ layer.weight.T + layer.bias)
    assert_close("logits", head(x), expected @ head.logits.weight.T + head.logits.bias)


#: What a saved model has to keep.
OPTIONS = {
    "cls_position": False,
    "embedding_norm": True,
    "last_norm": True,
    "block_skip": True,
    "classifier_hidden_size": [9, 8],
    "classifier_act": "relu",
    "num_labels": 3,
}


@over_families
def test_options_survive_saving_and_other_heads_load_around_them(family, tmp_path):
    model_class = family.model_class("AutoModelForSequenceClassification")
    model = tiny_model(family, "AutoModelForSequenceClassification", dtype=torch.float32, **OPTIONS)
    model.save_pretrained(tmp_path)
    ids = random_ids(2, 7)
    again, told = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert torch.equal(again(ids).logits, model(ids).logits)
    # A head of another shape starts anew, as the scheme says, and nothing else does.
    options = {"classifier_hidden_size": [200, 8], "init_scheme": "authors", "ignore_mismatched_sizes": True}
    other = model_class.from_pretrained(tmp_path, **options)
    assert torch.equal(other.model(ids).last_hidden_state, model.model(ids).last_hidden_state)
    fresh = other.classifier.hidden[0]
    assert 0.95 * 24**-0.5 < fresh.weight.abs().max() <= 24**-0.5
    assert fresh.bias.abs().max() > 0
    assert torch.equal(other.classifier.logits.weight, model.classifier.logits.weight)
