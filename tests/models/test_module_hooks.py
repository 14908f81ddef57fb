"""Every parameter is read inside the forward of the module that owns it: offloading, shards and reports rest on it."""

import accelerate
import pytest
import torch
from transformers import DynamicCache

from hf_effattn.diagnostics import diagnose
from hf_effattn.families import find
from hf_effattn.models.layer_feature_maps import FeatureMap
from tests.models.variants import FAMILIES, over_directions, over_families, padded, random_ids, tiny_model
from tests.numerics import assert_close


ROWS = [random_ids(1, length, seed=length)[0] for length in (17, 9, 1)]
KERNEL = find("kernel_transformer")


def offloaded(model):
    """The model with every parameter and buffer on ``meta``, but for the time of the forward of its module."""
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)


def outputs(model, inputs):
    with torch.no_grad():
        return model(**inputs)


@over_directions
def test_offloaded_models_compute_what_others_do(family, options, is_decoder):
    """The hidden states, the loss with its penalty, and what is decoded from a cache."""
    head = "AutoModelForCausalLM" if is_decoder else "AutoModelForSequenceClassification"
    model = tiny_model(family, head, dtype=torch.float32, is_decoder=is_decoder, **options)
    ids, mask = padded(ROWS, "left")
    labels = ids if is_decoder else torch.tensor([0, 1, 1])
    inputs = {"input_ids": ids, "attention_mask": mask}
    steps = {"input_ids": ids[:, :1], "attention_mask": torch.cat([mask, mask[:, -1:]], 1)}
    found = []
    for change in (lambda model: model, offloaded):
        model = change(model)
        given = outputs(model, inputs | {"labels": labels})
        found.append([given.logits, given.loss])
        if is_decoder:
            cache = outputs(model, inputs | {"use_cache": True}).cache
            found[-1].append(outputs(model, steps | {"cache": cache}).logits)
    assert next(model.parameters()).is_meta
    for expected, actual in zip(*found, strict=True):
        assert_close("offloaded", actual, expected, torch.float32)


@over_families
def test_offloaded_models_read_pixels(family):
    options = {"num_channels": 3, "vocab_size": 1}
    model = tiny_model(family, "AutoModelForImageClassification", dtype=torch.float32, **options)
    inputs = {"pixel_values": torch.rand(2, 3, 4, 5), "labels": torch.tensor([0, 1])}
    expected = outputs(model, inputs)
    actual = outputs(offloaded(model), inputs)
    assert_close("logits", actual.logits, expected.logits, torch.float32)


class Loading:
    """Puts the parameters that a module owns out of reach outside of its forward, and back on the way in."""

    def __init__(self, model):
        self.calls = 0
        for module in model.modules():
            owned = {name: p for name, p in module.named_parameters(recurse=False) if p is not None}
            if owned:
                module.register_forward_pre_hook(lambda module, _, owned=owned: self.put(module, owned))
                module.register_forward_hook(lambda module, *_, owned=owned: self.drop(module, owned))
                self.drop(module, owned)

    def put(self, module, owned):
        self.calls += 1
        for name, parameter in owned.items():
            module._parameters[name] = parameter

    def drop(self, module, owned):
        for name, parameter in owned.items():
            module._parameters[name] = torch.nn.Parameter(torch.empty_like(parameter, device="meta"))


@over_directions
def test_hooks_see_every_parameter_in_training(family, options, is_decoder):
    """Outputs and gradients with parameters that exist inside of their module's forward alone, as ZeRO-3 has them."""
    head = "AutoModelForCausalLM" if is_decoder else "AutoModelForSequenceClassification"
    model = tiny_model(family, head, is_decoder=is_decoder, **options).train()
    ids, mask = padded(ROWS, "left")
    inputs = {"attention_mask": mask, "labels": ids if is_decoder else torch.tensor([0, 1, 1])}
    parameters = dict(model.named_parameters())

    def gradients():
        torch.manual_seed(0)
        loss = model(ids, **inputs).loss
        return loss, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)

    expected = gradients()
    loading = Loading(model)
    actual = gradients()
    assert loading.calls > 0
    assert_close("loss", actual[0], expected[0])
    for name, one, other in zip(parameters, actual[1], expected[1], strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert_close(name, one, other)


@over_families
def test_the_report_names_the_device_that_offloaded_layers_run_on(family):
    model = tiny_model(family, dtype=torch.float32)
    expected = model.effattn_report()
    assert offloaded(model).effattn_report() == expected
    assert expected["device"] == "cpu"


@pytest.mark.parametrize(
    ("family", "options"),
    [(family, {}) for family in FAMILIES if family.model_type != "vanilla_transformer"]
    + [(KERNEL, {"orthogonality_penalty": 0.1}), (FAMILIES[2], {"pack_temperature": "learned"})],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_offloaded_models_can_be_diagnosed(family, options):
    model = tiny_model(family, dtype=torch.float32, **options)
    ids, mask = padded(ROWS, "right")
    inputs = {"input_ids": ids, "attention_mask": mask}
    expected = diagnose(model, **inputs)
    assert diagnose(offloaded(model), **inputs) == pytest.approx(expected, rel=1e-4)


def test_a_map_without_hooks_leaves_its_last_layer_to_the_operator(monkeypatch):
    """The features of a whole sequence are only held where something hangs on the map."""
    model, called = tiny_model(KERNEL, dtype=torch.float32, feature_map="glu"), []
    forward = FeatureMap.forward
    monkeypatch.setattr(FeatureMap, "forward", lambda self, *given: called.append(self) or forward(self, *given))
    outputs(model, {"input_ids": random_ids(2, 5)})
    assert not called
    phi = model.layers[0].attention.feature_map
    phi.register_forward_hook(lambda *_: None)
    outputs(model, {"input_ids": random_ids(2, 5)})
    assert called == [phi, phi], "once for the queries, once for the keys"


def test_offloaded_random_features_are_not_drawn_in_vain():
    model = offloaded(tiny_model(KERNEL, dtype=torch.float32, feature_map="favor")).train()
    with pytest.raises(RuntimeError, match="set redraw_interval=None"):
        outputs(model, {"input_ids": random_ids(2, 5)})
    fixed = offloaded(tiny_model(KERNEL, dtype=torch.float32, feature_map="favor", redraw_interval=None)).train()
    assert outputs(fixed, {"input_ids": random_ids(2, 5)}).last_hidden_state.isfinite().all()


@pytest.fixture
def penalties(monkeypatch):
    """A list with an entry for every penalty of a layer that is computed."""
    counted = []
    phi = KERNEL.model_class("AutoModel")(KERNEL.config_class()).layers[0].attention.feature_map
    monkeypatch.setattr(type(phi), "penalty", lambda self: counted.append(self) or self.stack("weight")[0].sum())
    return counted


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_penalty_is_computed_where_it_is_read(penalties, labels, training):
    model = tiny_model(KERNEL, "AutoModelForMaskedLM", orthogonality_penalty=0.1).train(training)
    ids = random_ids(2, 5)
    given = model(ids, labels=ids if labels else None)
    assert (given.aux_loss is not None) == (labels or training)
    assert len(penalties) == (2 if labels or training else 0), "once a layer"


@pytest.mark.parametrize("training", [False, True])
def test_decoding_computes_no_penalty(penalties, training):
    model = tiny_model(KERNEL, "AutoModelForCausalLM", orthogonality_penalty=0.1).train(training)
    for use_cache in (True, False):
        model.generate(random_ids(1, 5), max_new_tokens=3, min_new_tokens=3, use_cache=use_cache)
    cache = DynamicCache(config=model.config)
    assert model(random_ids(1, 5), cache=cache).aux_loss is None
    assert not penalties
    ids = random_ids(1, 5)
    assert model(ids, cache=cache, labels=ids).aux_loss is not None, "a loss includes it, with a cache too"


@pytest.mark.parametrize("training", [False, True])
def test_a_pair_has_one_penalty(penalties, training):
    options = {"orthogonality_penalty": 0.1, "pair_features": "concat"}
    model = tiny_model(KERNEL, "AutoModelForSequenceClassification", **options).train(training)
    model(random_ids(1, 5), pair_input_ids=random_ids(1, 6), labels=torch.tensor([1]))
    assert len(penalties) == 2, "once a layer"
    penalties.clear()
    assert (model.model(random_ids(1, 5)).aux_loss is not None) == training
