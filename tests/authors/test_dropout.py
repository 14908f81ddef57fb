"""The authors' presets drop where the authors' classifiers drop, and nowhere else.

With a probability just below one all that is dropped is zero. So a preset in training, with one of its probabilities
so high, has to equal the authors' classifier with zeros in the places of this probability, gradients included: the
residual stream, embeddings or packed cells could not be dropped unseen. What zeros hide, namely what is dropped
together and how often, the last tests show on single layers.
"""

from dataclasses import replace

import pytest
import torch

from hf_effattn.models.base_sequence import SequenceInfo
from tests.authors.compare import Comparison, build, preset
from tests.authors.published import PRESETS, VARIANTS, Case


ALMOST_ONE = 1 - 1e-12
HALF = 0.5

#: A probability of the library's -> the places of the authors' that it belongs to.
PLACES = {
    "hidden_dropout_prob": {"inner", "feed-forward"},
    "attention_probs_dropout_prob": {"attention"},
    "kernel_dropout_prob": {"kernel"},
    "classifier_dropout": {"head"},
}
#: Probabilities of places where the authors drop nothing.
NOWHERE = ("embedding_dropout_prob", "attention_output_dropout_prob", "memory_dropout_prob")


def probabilities(case: Case) -> list[str]:
    """Those of the `PLACES` that the case has. The authors drop nothing in front of the head of a pair."""
    inside = "kernel_dropout_prob" if case.design.mixer == "kernel" else "attention_probs_dropout_prob"
    return ["hidden_dropout_prob", inside, *([] if case.design.pair else ["classifier_dropout"])]


@pytest.mark.parametrize("case", PRESETS, ids=lambda case: case.name)
def test_probabilities_are_the_authors(case):
    config = build(preset(case) | {"num_hidden_layers": 0}).config
    hidden, inside, *_ = probabilities(case)
    assert getattr(config, hidden) == getattr(config, inside) == case.design.dropout
    assert config.classifier_dropout == 0 or (config.classifier_dropout is None and config.hidden_dropout_prob == 0)
    for name in NOWHERE:
        found = getattr(config, name, 0)
        assert found == 0 or (found is None and config.hidden_dropout_prob == 0), name


def of_two_blocks(case: Case) -> Case:
    """The case with fewer blocks, which all drop alike."""
    return replace(case, design=replace(case.design, layers=2), options=case.options | {"num_hidden_layers": 2})


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in [*PRESETS, *VARIANTS] for name in probabilities(case)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_probability_acts_in_the_authors_places_alone(case, name):
    torch.manual_seed(0)
    none = dict.fromkeys(probabilities(case), 0.0)
    comparison = Comparison(of_two_blocks(case), **none | {name: ALMOST_ONE})
    comparison.model.train()
    differences = comparison.differences(lambda place, x: 0 * x if place in PLACES[name] else x)
    assert max(differences.values()) <= 1e-10, differences


def one_block(name: str, **options) -> torch.nn.Module:
    """The first block of a preset in training, with every probability that it has at one half."""
    case = next(case for case in PRESETS if case.name == name)
    fields = preset(case) | {"num_hidden_layers": 1, "vocab_size": 8, "max_position_embeddings": 8}
    model = build(fields | dict.fromkeys(probabilities(case), HALF) | options)
    return model.train().model.layers[0]


def assert_share(ratios: torch.Tensor, expected: dict[float, float]) -> None:
    """`ratios` are the keys of `expected`, each as often as its value says, within five standard errors."""
    ratios = ratios.flatten()
    for value, share in expected.items():
        found = float(torch.isclose(ratios, torch.tensor(value), atol=1e-4).float().mean())
        assert abs(found - share) <= 5 * (share * (1 - share) / len(ratios)) ** 0.5, (value, found)
    nearest = (ratios[:, None] - torch.tensor(list(expected))).abs().min(1).values
    assert float(nearest.max()) <= 1e-4


@torch.no_grad()
def test_the_feed_forward_layer_drops_after_both_maps():
    mlp = one_block("luna-lra2024-text").mlp
    hidden, inner = mlp.down.weight.shape
    for parameter in mlp.parameters():
        parameter.zero_()
    mlp.up.bias.fill_(2.0)
    mlp.down.weight.copy_(torch.eye(hidden, inner))
    torch.manual_seed(0)
    dropped = mlp(torch.zeros(16, 8, hidden))
    assert_share(dropped / mlp.eval()(torch.zeros(1, hidden)), {0.0: 3 / 4, 4.0: 1 / 4})


@torch.no_grad()
@pytest.mark.parametrize(
    ("feature_map", "expected"),
    [("linear", {0.0: 3 / 4, 4.0: 1 / 4}), ("ffn", {0.0: 1 / 2, 2.0: 1 / 4, 6.0: 1 / 4})],
)
def test_every_kernel_layer_drops_its_input_and_never_the_residual(feature_map, expected):
    # With W = I and b = 0 the inner layer makes 2 x or nothing of x, with a residual 3 x or x; the last drops again.
    features = one_block("kernel_transformer-authors-text", feature_map=feature_map).attention.feature_map
    for name, parameter in features.named_parameters():
        parameter.zero_()
        if name.startswith("weight"):
            parameter += torch.eye(parameter.shape[1])
    torch.manual_seed(0)
    heads = torch.ones(4, features.num_heads, 16, features.head_dim)
    for is_query in (True, False):
        assert_share(features(heads, is_query=is_query).expm1().log(), expected)


@torch.no_grad()
def test_simpletron_drops_entries_of_the_product_of_keys_and_values():
    attention = one_block("simpletron-lra2022-text").attention
    # Every query is the first unit vector, so what a token reads is the first row of its head's product.
    attention.query.weight.zero_()
    attention.query.bias.zero_()
    attention.query.bias[:: attention.query.bias.numel() // attention.num_heads] = 1.0
    torch.manual_seed(0)
    hidden_states, counts = torch.randn(8, 6, 256), torch.arange(1, 7)[None]
    sequence = SequenceInfo(6, None, counts, counts[:, -1:])
    dropped, _ = attention(hidden_states, sequence)
    whole, _ = attention.eval()(hidden_states, sequence)
    ratios = dropped / whole
    assert torch.allclose(ratios, ratios[:, :1].expand_as(ratios), atol=1e-4)
    assert_share(ratios[:, 0], {0.0: HALF, 2.0: HALF})


@torch.no_grad()
@pytest.mark.parametrize("side", ["pack", "unpack"])
@pytest.mark.parametrize("name", ["luna-lra2024-text", "convluna-authors-text"])
def test_both_attentions_of_a_memory_drop_weights(name, side):
    attention = one_block(name).attention
    for key, projection in attention.projections.items():
        projection.bias.zero_()
        if key.endswith(("value", "output")):
            projection.weight.copy_(torch.eye(len(projection.weight)))
    if attention.filter is not None:
        attention.filter.weight.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]).expand_as(attention.filter.weight))
    torch.manual_seed(0)
    # One item alone has a value, so that what is read is its weight, in all channels of a head.
    items, readers = torch.zeros(8, 6, 128), torch.randn(8, 32, 128)
    items[:, 2] = 1 + torch.rand(8, 128)

    def read() -> torch.Tensor:
        if side == "pack":
            return attention.pack(items, readers, None, False)[0]
        return attention.unpack(readers, items, False)[0]

    dropped = read()
    attention.eval()
    ratios = (dropped / read()).unflatten(-1, (attention.num_heads, -1))
    assert torch.allclose(ratios, ratios[..., :1].expand_as(ratios), atol=1e-4)
    assert_share(ratios[..., 0], {0.0: HALF, 2.0: HALF})
