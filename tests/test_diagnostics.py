"""The measures against cases known by hand, and what is collected from every family."""

import json
import math

import pytest
import torch
from transformers import Trainer, TrainingArguments

import hf_effattn
from hf_effattn import diagnostics
from hf_effattn.families import find
from tests.models.variants import padded, random_ids, tiny_model
from tests.numerics import assert_close


IDS, MASK = padded([random_ids(1, 13)[0], random_ids(1, 7)[0]], "left")
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
MEMORY_MEASURES = {"memory_cosine", "memory_stable_rank", "memory_effective_rank"}
PACKING = MEMORY_MEASURES | {"pack_entropy", "unpack_entropy"}
SINGLE_CELL = PACKING - {"memory_cosine", "unpack_entropy"}
KERNEL = {"state_norm", "denominator_min", "denominator_max", "weight_sum_min"}

#: Family, options, direction, where, and the measures to find there.
COLLECTED = [
    ("simpletron", {}, False, "layer_1", {"state_norm"}),
    ("kernel_transformer", {"feature_map": "elu"}, True, "layer_0", KERNEL),
    ("kernel_transformer", {}, False, "layer_1", KERNEL | {"orthogonality_error"}),
    ("luna", {}, False, "layer_0", PACKING),
    ("convluna", {"filter_stride": 3}, False, "layer_1", PACKING),
    ("convluna", {"filter_windows": "full"}, False, "layer_1", PACKING),
    ("convluna", {"memory_size": 1, "unpack_temperature": "unit"}, False, "layer_1", SINGLE_CELL),
    ("memory_transformer", {}, False, "memory", MEMORY_MEASURES),
    ("memory_transformer", {"segment_length": 4}, False, "memory", MEMORY_MEASURES),
]


def test_measures_of_known_tensors():
    identity, ones = torch.eye(4), torch.ones(4, 4)
    assert_close("orthogonal cells", diagnostics.memory_cosine(identity), torch.tensor(0.0).double())
    assert_close("equal cells", diagnostics.memory_cosine(2 * ones), torch.tensor(1.0).double())
    opposite = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    assert_close("opposite cells", diagnostics.memory_cosine(opposite), torch.tensor(-1.0).double())
    for rank in (diagnostics.stable_rank, diagnostics.effective_rank):
        assert_close("rank 4", rank(3 * identity), torch.tensor(4.0).double())
        assert_close("rank 1", rank(ones), torch.tensor(1.0).double())
        assert_close("mean over a batch", rank(torch.stack([identity, ones])), torch.tensor(2.5).double())
    scaled = torch.diag(torch.tensor([2.0, 1.0]))
    assert_close("5 / 4", diagnostics.stable_rank(scaled), torch.tensor(1.25).double())
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert_close(
        "shares 2/3, 1/3", diagnostics.effective_rank(scaled), torch.tensor(math.exp(entropy), dtype=torch.float64)
    )
    with pytest.raises(ValueError, match="needs two of them, got 1"):
        diagnostics.memory_cosine(torch.ones(1, 4))


def test_entropy_counts_the_keys_that_can_be_read():
    uniform = torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [1, 0, 0, 0]]).double()[:, None, None]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    assert_close("uniform", diagnostics.attention_entropy(uniform, mask), torch.tensor(1.0).double())
    assert_close("half", diagnostics.attention_entropy(uniform[1:2]), torch.tensor(0.5).double())
    assert diagnostics.attention_entropy(uniform[2:], mask[2:]).isnan()


@pytest.mark.parametrize("causal", [False, True])
def test_denominators_and_states_against_loops(causal):
    generator = torch.Generator().manual_seed(0)
    query, key = torch.rand(2, 2, 3, 9, 4, generator=generator, dtype=torch.float64)
    value = torch.randn(2, 3, 9, 5, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[True] * 9, [False] * 4 + [True] * 5])
    seen, states = [], []
    for row in range(2):
        real = [n for n in range(9) if mask[row, n]]
        for head in range(3):
            for n in real:
                seen.append(sum(query[row, head, n] @ key[row, head, m] for m in real if not causal or m <= n))
            states.append(sum(torch.outer(key[row, head, m], value[row, head, m]) for m in real).norm())
    low, high = diagnostics.denominator_range(query, key, mask, causal)
    assert_close("range", torch.stack([low, high]), torch.stack([min(seen), max(seen)]))
    assert_close("state", diagnostics.state_norm(key, value, mask), torch.stack(states).mean())


@pytest.mark.parametrize(("name", "options", "is_decoder", "place", "expected"), COLLECTED)
def test_every_family_is_measured(name, options, is_decoder, place, expected):
    model = tiny_model(find(name), "AutoModelForTokenClassification", is_decoder=is_decoder, **options).train()
    found = hf_effattn.diagnose(model, **INPUTS)
    assert {key.split("/")[1] for key in found if key.startswith(f"{place}/")} == expected
    assert all(math.isfinite(value) for value in found.values())
    assert model.training, "left as it was"
    other = torch.where(MASK == 1, IDS, 9)
    assert found == pytest.approx(hf_effattn.diagnose(model, input_ids=other, attention_mask=MASK)), "padding"


@pytest.mark.parametrize("options", [{"filter_stride": 3}, {"filter_windows": "full"}, {"memory_filter": "none"}])
def test_a_padded_sequence_measures_what_it_does_alone(options):
    model, row = tiny_model(find("convluna"), **options), random_ids(1, 7)
    ids, mask = padded([row[0], random_ids(1, 13)[0]], "left")
    together = hf_effattn.diagnose(model, input_ids=ids[:1], attention_mask=mask[:1])
    assert together == pytest.approx(hf_effattn.diagnose(model, input_ids=row))


def test_collected_measures_are_those_of_the_outputs():
    model = tiny_model(find("convluna"), filter_stride=2)
    found = hf_effattn.diagnose(model, input_ids=IDS)
    outputs = model(IDS, output_attentions=True)
    for index in range(2):
        pack, unpack = outputs.pack_attentions[index], outputs.attentions[index]
        expected = [diagnostics.attention_entropy(weights).item() for weights in (pack, unpack)]
        assert [found[f"layer_{index}/{name}"] for name in ("pack_entropy", "unpack_entropy")] == pytest.approx(
            expected
        )
    assert found["layer_1/memory_cosine"] == pytest.approx(diagnostics.memory_cosine(outputs.memory).item())


@pytest.mark.parametrize("name", ["luna", "memory_transformer", "simpletron"])
def test_pairs_give_the_mean_of_both(name):
    model = tiny_model(find(name), "AutoModelForSequenceClassification", pair_features="concat").train()
    model.model.embeddings.eval()
    first, second = random_ids(1, 9), random_ids(1, 7, seed=4)
    both = hf_effattn.diagnose(model, input_ids=first, pair_input_ids=second)
    alone = [hf_effattn.diagnose(model.model, input_ids=ids) for ids in (first, second)]
    assert both == pytest.approx({key: (alone[0][key] + alone[1][key]) / 2 for key in alone[0]})
    assert model.training
    assert not model.model.embeddings.training, "every module is left in its own mode"


@pytest.mark.parametrize("feature_map", ["favor", "spectral", "elu"])
@pytest.mark.filterwarnings("error")
def test_keys_whose_features_vanish_are_warned_of(feature_map):
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = tiny_model(find("kernel_transformer"), dtype=torch.float32, feature_map=feature_map, **sizes)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.key.weight.mul_(0.1)
        assert hf_effattn.diagnose(model, **INPUTS)["layer_1/weight_sum_min"] > 0.99
        model.layers[1].attention.key.weight.mul_(1000.0)
    if feature_map == "elu":
        hf_effattn.diagnose(model, **INPUTS)
        return
    with pytest.warns(UserWarning, match=r"do not sum to 1 \(layer_1: .*: the features of its keys vanish"):
        found = hf_effattn.diagnose(model, **INPUTS)
    assert found["layer_1/weight_sum_min"] < 0.01


def test_a_softmax_model_has_nothing_to_measure():
    with pytest.raises(ValueError, match="neither a memory nor linear attention"):
        hf_effattn.diagnose(tiny_model(find("vanilla_transformer")), **INPUTS)


def test_the_trainer_logs_them(tmp_path):
    model = tiny_model(find("luna"), "AutoModelForTokenClassification", dtype=torch.float32)
    data = [{"input_ids": IDS[0], "labels": IDS[0] % 2}] * 4
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, eval_strategy="steps", eval_steps=2, report_to=[], use_cpu=True
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.add_callback(hf_effattn.DiagnosticsCallback(trainer, INPUTS))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "diagnostics/layer_1/memory_cosine" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    json.dumps(logged)


@pytest.mark.parametrize("name", ["simpletron", "convluna", "memory_transformer"])
def test_the_figure_shows_every_layer(name, tmp_path):
    figure = hf_effattn.attention_figure(tiny_model(find(name)), **INPUTS)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    rows = (
        ["attention", "singular values"]
        if name == "simpletron"
        else ["attention", "pack attention", "singular values"]
    )
    assert titles == [f"layer {layer}: {row}" for row in rows for layer in range(2)]
    figure.savefig(tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 5000
