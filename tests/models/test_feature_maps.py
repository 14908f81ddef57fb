"""Feature maps against their equations, written out head by head, and what only they promise."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import elu, relu, softplus

from hf_effattn.families import find
from hf_effattn.models.layer_feature_maps import FEATURE_MAPS, make_feature_map
from hf_effattn.models.ops_linear import linear_attention
from hf_effattn.models.ops_reference import reference_softmax_attention
from tests.models.variants import random_ids, tiny_config, tiny_model
from tests.numerics import assert_close, relative_error


FAMILY = find("kernel_transformer")
HEADS = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make_map(**options):
    """The map of a freshly initialised layer, in float64."""
    config = tiny_config(FAMILY, **options)
    return FAMILY.model_class("AutoModel")(config).layers[0].attention.feature_map.double()


def by_head(function, features):
    """Apply ``function(head index, [N, d])`` to every head of every row."""
    output = torch.empty(2, 3, 7, features, dtype=torch.float64)
    for row in range(2):
        for head in range(3):
            output[row, head] = function(head, HEADS[row, head])
    return output


def test_elementwise_maps():
    for name, function in (("elu", lambda x: elu(x) + 1), ("relu", relu), ("softplus", softplus)):
        assert_close(name, make_map(feature_map=name)(HEADS, is_query=True), function(HEADS))


def test_linear_kernel():
    phi = make_map(feature_map="linear", num_features=5)
    expected = by_head(lambda h, x: softplus(x @ phi.stack("weight")[0][h]), 5)
    assert_close("linear", phi(HEADS, is_query=False), expected)


def test_two_layer_feed_forward_kernel():
    phi = make_map(feature_map="ffn", num_kernel_layers=2, num_features=5)

    def equation(h, x):
        x = x + (x @ phi.stack("weight")[0][h] + phi.stack("bias")[0][h])
        return softplus(x @ phi.stack("weight")[1][h] + phi.stack("bias")[1][h])

    assert_close("ffn", phi(HEADS, is_query=False), by_head(equation, 5))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", ["linear", "ffn", "glu", "low_rank_glu"])
def test_dropout_acts_on_the_input_of_every_layer_and_on_no_residual(name, layers):
    phi = make_map(feature_map=name, num_kernel_layers=layers, kernel_dropout_prob=0.4).train()
    torch.manual_seed(1)
    x = HEADS
    for index in range(layers):
        made = phi.layer(index)(torch.dropout(x, 0.4, True))
        x = x + made if name == "ffn" and index < layers - 1 else made
    torch.manual_seed(1)
    assert torch.equal(phi(HEADS, is_query=False), x)


def test_three_layer_gated_kernel():
    phi = make_map(feature_map="glu", num_kernel_layers=3, num_features=5)

    def equation(h, x):
        for i in range(2):
            x = (x @ phi.stack("weight")[i][h]) * torch.sigmoid(x @ phi.stack("gate")[i][h])
        return softplus(x @ phi.stack("weight")[2][h]) * torch.sigmoid(x @ phi.stack("gate")[2][h])

    assert_close("glu", phi(HEADS, is_query=False), by_head(equation, 5))


def test_low_rank_gated_kernel():
    phi = make_map(feature_map="low_rank_glu")
    assert phi.stack("gate")[0].shape == (3, 8, 2), "the rank is a quarter of the head size"

    def equation(h, x):
        return softplus(x @ phi.stack("weight")[0][h]) * torch.sigmoid(
            x @ phi.stack("gate")[0][h] @ phi.stack("gate_output")[0][h]
        )

    assert_close("low_rank_glu", phi(HEADS, is_query=False), by_head(equation, 8))


@pytest.mark.parametrize("name", ["favor", "spectral"])
def test_exponential_maps(name):
    phi = make_map(feature_map=name, num_features=6)

    def equation(h, x):
        x = x / 8**0.25
        return torch.exp(x @ phi.frequencies()[h] - (x * x).sum(-1, keepdim=True) / 2) / 6**0.5

    expected = by_head(equation, 6)
    # All keys are scaled by one number, and a query by its own largest exponent, which the ratio takes out again.
    assert_close("keys", phi(HEADS, is_query=False), expected * math.exp(30))
    queries = phi(HEADS, is_query=True)
    assert_close("queries", queries / queries.sum(-1, keepdim=True), expected / expected.sum(-1, keepdim=True))


def test_spectral_frequencies_are_a_mixture_over_fixed_noise():
    phi = make_map(feature_map="spectral", num_features=5, num_mixtures=2)
    with torch.no_grad():
        phi.log_deviations.normal_()
    for h in range(3):
        for i in range(5):
            expected = phi.means[h, i % 2] + phi.log_deviations[h, i % 2].exp() * phi.noise[h, i]
            assert_close("frequency", phi.frequencies()[h, :, i], expected)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_features_are_not_negative_and_as_many_as_said(name):
    phi = make_map(feature_map=name)
    features = phi(10 * HEADS, is_query=False)
    assert features.min() >= 0
    assert features.shape[-1] == phi.num_features == 8


@pytest.mark.parametrize("name", ["favor", "spectral"])
def test_exponential_maps_converge_to_softmax(name):
    query, key, value = 0.5 * torch.randn(3, 1, 3, 20, 8, dtype=torch.float64)
    expected = reference_softmax_attention(query, key, value)
    errors = []
    for features in (16, 256, 4096):
        phi = make_map(feature_map=name, num_features=features)
        actual, _ = linear_attention(phi(query, is_query=True), phi(key, is_query=False), value, eps=0.0)
        errors.append(relative_error(actual, expected))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.15


def wide_layer(name, dim, backend="auto", is_decoder=False):
    """A fresh attention layer of two heads of width `dim`, in float32."""
    sizes = {"hidden_size": 2 * dim, "num_attention_heads": 2, "num_hidden_layers": 1, "is_decoder": is_decoder}
    config = FAMILY.config_class(**sizes, feature_map=name, attention_backend=backend)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FAMILY.model_class("AutoModel")(config).layers[0].attention


def large_heads(dim, std, length=200):
    generator = torch.Generator().manual_seed(1)
    return [std * torch.randn(2, 2, length, dim, generator=generator) for _ in range(3)]


over_wide_heads = pytest.mark.parametrize(("dim", "std"), [(64, 4.0), (128, 3.0), (128, 3.5), (256, 3.0)])


@pytest.mark.parametrize("name", ["favor", "spectral"])
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
@over_wide_heads
def test_weights_of_large_keys_sum_to_one(name, causal, backend, dim, std):
    """For the first tokens of a decoder too, who see few keys."""
    layer = wide_layer(name, dim, backend)
    query, key, _ = large_heads(dim, std)
    features = layer.feature_map(query, is_query=True), layer.feature_map(key)
    ones = torch.ones(2, 2, 200, 1)
    sums, _ = linear_attention(*features, ones, causal=causal, eps=layer.eps, backend=backend)
    assert sums.min() > 0.99
    assert sums.max() < 1.001


@pytest.mark.parametrize("name", ["favor", "spectral"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_large_keys_have_the_gradients_of_double_precision(name, backend):
    found = []
    for dtype in (torch.float32, torch.float64):
        layer = wide_layer(name, 128, backend if dtype == torch.float32 else "torch").to(dtype)
        tensors = [part.to(dtype).requires_grad_() for part in large_heads(128, 3.0)]
        query, key, value = tensors
        features = layer.feature_map(query, is_query=True), layer.feature_map(key)
        output, _ = linear_attention(*features, value, causal=True, eps=layer.eps)
        wanted = [*tensors, *layer.feature_map.parameters()]
        found.append([output, *torch.autograd.grad((output * large_heads(128, 1.0)[0]).sum(), wanted)])
    for single, double in zip(*found, strict=True):
        assert relative_error(single, double) < 2e-3


@pytest.mark.parametrize("name", ["favor", "spectral"])
def test_large_keys_are_the_same_in_chunks_and_steps(name):
    layer = wide_layer(name, 64)
    query, key, value = large_heads(64, 4.0, length=70)
    features = layer.feature_map(query, is_query=True), layer.feature_map(key)
    whole, last = linear_attention(*features, value, causal=True, eps=layer.eps)
    state, outputs, start = None, [], 0
    for length in (40, 1, 1, 28):
        part = [rows[:, :, start : start + length] for rows in (query, key, value)]
        features = layer.feature_map(part[0], is_query=True), layer.feature_map(part[1])
        output, state = linear_attention(*features, part[2], causal=True, eps=layer.eps, initial_state=state)
        outputs.append(output)
        start += length
    assert_close("outputs", torch.cat(outputs, dim=2), whole)
    assert_close("state", state, last)


def test_favor_frequencies_are_orthogonal_in_blocks():
    blocks = make_map(feature_map="favor", num_features=16).projection.unflatten(-1, (2, 8))
    for block in (blocks[:, :, 0], blocks[:, :, 1]):
        gram = block.transpose(1, 2) @ block
        off_diagonal = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
        assert off_diagonal.abs().max() < 1e-5


def test_favor_is_redrawn_between_training_passes_alone():
    model = tiny_model(FAMILY, feature_map="favor", redraw_interval=2)
    phi, ids = model.layers[0].attention.feature_map, random_ids(1, 5)
    first = phi.projection.clone()
    for _ in range(4):
        model(ids)
    assert torch.equal(phi.projection, first), "not while evaluating"
    model.train()(ids)
    assert torch.equal(phi.projection, first)
    model(ids)
    assert not torch.equal(phi.projection, first)
    assert model.state_dict()["layers.0.attention.feature_map.passes"] == 2, "a checkpoint goes on counting"
    fixed = tiny_model(FAMILY, feature_map="favor", redraw_interval=None).train()
    before = fixed.layers[0].attention.feature_map.projection.clone()
    fixed(ids)
    assert torch.equal(fixed.layers[0].attention.feature_map.projection, before)


def test_gradient_checkpointing_does_not_redraw_twice():
    model = tiny_model(FAMILY, "AutoModelForMaskedLM", feature_map="favor", redraw_interval=1).train()
    model.gradient_checkpointing_enable()
    ids = random_ids(1, 5)
    model(ids, labels=ids).loss.backward()
    assert model.model.layers[0].attention.feature_map.passes == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_favor_is_not_redrawn_between_the_two_of_a_pair(checkpointing):
    """They share a backward pass; the features of both have to be those that it is run with."""

    def gradients(redraw_interval):
        options = {"pair_features": "concat", "redraw_interval": redraw_interval, "initializer_range": 0.5}
        model = tiny_model(FAMILY, "AutoModelForSequenceClassification", feature_map="favor", **options).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        phi = model.model.layers[0].attention.feature_map
        phi.passes.fill_(998)
        loss = model(random_ids(1, 5), pair_input_ids=random_ids(1, 6), labels=torch.tensor([1])).loss
        loss.backward()
        assert phi.passes == 999, "a pair is one pass"
        return [parameter.grad for parameter in model.parameters()]

    for drawn, kept in zip(gradients(1000), gradients(None), strict=True):
        assert torch.equal(drawn, kept)


def test_a_draw_does_not_move_the_dropout_of_recomputed_layers():
    """Recomputation replays the random numbers of a layer, and so no draw may be among them."""

    def gradients(checkpointing):
        options = {"redraw_interval": 1, "hidden_dropout_prob": 0.3}
        model = tiny_model(FAMILY, "AutoModelForMaskedLM", feature_map="favor", **options).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model(random_ids(1, 5), labels=random_ids(1, 5)).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, recomputed)


def test_a_pair_is_one_pass_even_if_its_second_text_is_refused():
    model = tiny_model(
        FAMILY, "AutoModelForSequenceClassification", feature_map="favor", pair_features="concat"
    ).train()
    phi, ids = model.model.layers[0].attention.feature_map, random_ids(1, 5)
    with pytest.raises(ValueError, match="input_ids must lie in"):
        model(ids, pair_input_ids=ids + 900)
    model(ids, pair_input_ids=ids)
    assert phi.passes == 2
    with pytest.raises(TypeError, match="unknown arguments"):
        model.model(ids, keep_features=True)


def test_a_pair_trains_in_one_graph():
    options = {"redraw_interval": 2, "pair_features": "concat"}
    model = tiny_model(FAMILY, "AutoModelForSequenceClassification", feature_map="favor", **options).train()
    phi = model.model.layers[0].attention.feature_map
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    drawn = [phi.projection.clone()]
    for _ in range(3):
        compiled(random_ids(1, 5), pair_input_ids=random_ids(1, 6)).logits.sum().backward()
        drawn.append(phi.projection.clone())
    assert [not torch.equal(*pair) for pair in pairwise(drawn)] == [False, True, False]


def test_a_pass_keeps_its_frequencies_for_its_backward():
    model = tiny_model(FAMILY, "AutoModelForMaskedLM", feature_map="favor", redraw_interval=1).train()
    ids = random_ids(1, 5)
    first = model(ids, labels=ids).loss
    second = model(ids, labels=ids).loss
    (first + second).backward()


def test_the_report_counts_features_that_are_more_than_a_head_is_wide():
    assert tiny_model(FAMILY, feature_map="favor", num_features=300).attention_width == 300
    assert tiny_model(FAMILY, feature_map="favor", num_features=5).attention_width == 8
    assert tiny_model(FAMILY, feature_map="elu").attention_width == 8


def test_favor_in_half_precision_starts_like_in_single():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        half = FAMILY.model_class("AutoModel")._from_config(tiny_config(FAMILY, feature_map="favor"), dtype=torch.half)
        torch.manual_seed(0)
        single = FAMILY.model_class("AutoModel")(tiny_config(FAMILY, feature_map="favor"))
    found, expected = (model.layers[0].attention.feature_map.projection for model in (half, single))
    assert found.dtype == torch.half
    assert found.std() == pytest.approx(float(expected.std()), rel=0.2)


def test_favor_trains_in_one_graph():
    model = tiny_model(FAMILY, feature_map="favor", redraw_interval=2).train()
    phi, ids = model.layers[0].attention.feature_map, random_ids(1, 5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    drawn = [phi.projection.clone()]
    for _ in range(4):
        compiled(ids)
        drawn.append(phi.projection.clone())
    changed = [not torch.equal(*pair) for pair in pairwise(drawn)]
    assert changed == [False, True, False, True]


@pytest.mark.parametrize("name", ["linear", "ffn", "glu", "low_rank_glu"])
@pytest.mark.parametrize("num_features", [5, 8, 13])
def test_trained_maps_start_orthogonal(name, num_features):
    phi = make_map(feature_map=name, num_features=num_features, num_kernel_layers=2)
    assert phi.penalty() < 1e-10


def test_penalty_is_the_mean_square_over_layers():
    phi = make_map(feature_map="glu", num_kernel_layers=2, num_features=5)
    with torch.no_grad():
        for parameter in phi.parameters():
            parameter.normal_()
    first = (phi.stack("weight")[0] @ phi.stack("weight")[0].mT - torch.eye(8)).pow(2).mean()
    second = (phi.stack("weight")[1].mT @ phi.stack("weight")[1] - torch.eye(5)).pow(2).mean()
    assert_close("penalty", phi.penalty(), first + second)


def test_the_penalty_joins_the_loss_once():
    ids = random_ids(2, 6)
    plain = tiny_model(FAMILY, "AutoModelForMaskedLM")(ids, labels=ids)
    assert plain.aux_loss is None
    model = tiny_model(FAMILY, "AutoModelForMaskedLM", orthogonality_penalty=0.3)
    output = model(ids, labels=ids)
    expected = 0.3 * sum(layer.attention.feature_map.penalty() for layer in model.model.layers)
    assert_close("aux_loss", output.aux_loss, expected)
    assert_close("loss", output.loss, plain.loss + expected)
    gate = model.model.layers[0].attention.feature_map.stack("gate")[0]
    assert torch.autograd.grad(output.aux_loss, gate, allow_unused=True)[0] is None, "the gate is free"


@pytest.mark.parametrize(
    ("hidden", "heads", "layers", "kernel_layers", "name", "added"),
    [
        (128, 8, 4, 1, "glu", 16_384),
        (128, 8, 4, 2, "glu", 32_768),
        (128, 8, 4, 3, "low_rank_glu", 36_864),
        (512, 8, 6, 1, "glu", 393_216),
        (512, 8, 6, 2, "glu", 786_432),
        (512, 8, 6, 3, "low_rank_glu", 884_736),
    ],
)
def test_parameters_added_are_those_that_the_authors_print(hidden, heads, layers, kernel_layers, name, added):
    config = FAMILY.config_class(
        hidden_size=hidden, num_attention_heads=heads, feature_map=name, num_kernel_layers=kernel_layers
    )
    assert layers * sum(parameter.numel() for parameter in make_feature_map(config).parameters()) == added


def test_one_feature_makes_kernel_attention_a_mean_that_no_query_changes():
    """``phi(q) sum phi(k_m) v_m / phi(q) sum phi(k_m)``: phi(q) cancels; where phi is constant the mean is plain."""
    mapped = make_map(feature_map="linear", num_features=1)
    value = HEADS.flip(0)
    query = mapped(HEADS.flip(2), is_query=True)
    weights = mapped(HEADS, is_query=False)
    expected = (weights * value).sum(2, keepdim=True) / weights.sum(2, keepdim=True)
    output, _ = linear_attention(query, weights, value, eps=0.0)
    assert_close("weighted mean", output, expected.expand_as(output))
    torch.nn.init.zeros_(mapped.weight_0)
    output, _ = linear_attention(mapped(HEADS, is_query=True), mapped(HEADS, is_query=False), value, eps=0.0)
    assert_close("mean", output, value.mean(2, keepdim=True).expand_as(output))
