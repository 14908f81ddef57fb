"""Configs with teeth: what clashes is refused, and every field changes something."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_effattn.families import find
from tests.models.variants import (
    FAMILIES,
    SIZES,
    over_causal_families,
    over_families,
    over_heads,
    random_ids,
    tiny_config,
    tiny_model,
)


@over_families
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 25}, r"hidden_size \(25\) must be a multiple of num_attention_heads \(3\)"),
        ({"pad_token_id": 64}, r"pad_token_id \(64\) must be below vocab_size \(64\)"),
        ({"num_attention_heads": 0}, "num_attention_heads must be positive, got 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must not be negative"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob must lie in \[0, 1\), got 1.0"),
        ({"embedding_dropout_prob": -0.1}, r"embedding_dropout_prob must lie in \[0, 1\), got -0.1"),
        ({"attention_output_dropout_prob": 2}, r"attention_output_dropout_prob must lie in \[0, 1\), got 2"),
        ({"classifier_dropout": 1}, r"classifier_dropout must lie in \[0, 1\), got 1"),
        ({"classifier_hidden_size": [8, 0]}, "classifier_hidden_size must be positive, got 0"),
        ({"classifier_hidden_size": 1, "pair_features": "concat"}, r"widths \[1, 0\], which must be positive"),
        ({"classifier_act": "gelo"}, "classifier_act must be one of .*'gelu'.* got 'gelo'"),
        ({"cls_position": False, "max_position_embeddings": 1}, "so max_position_embeddings must be above 1, got 1"),
        (
            {"init_scheme": "authors", "initializer_range": 0.1},
            "initializer_range=0.1 is for init_scheme='normal': .* so leave it at 0.02",
        ),
        ({"init_scheme": "orthogonal"}, "init_scheme"),
        ({"embedding_norm": "yes"}, "embedding_norm"),
        ({"num_channels": 0}, "num_channels must be positive"),
        ({"norm_type": "batch_norm"}, "norm_type"),
        ({"pooling": "max"}, "pooling"),
        ({"hidden_size": "24"}, "hidden_size"),
        ({"hiden_size": 24}, "has no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"xyz": 1}, "has no field 'xyz'; its fields are"),
    ],
)
def test_bad_values_are_refused(family, options, message):
    wrong_type = {"hiden_size", "xyz", "embedding_norm"} & options.keys() or options.get("hidden_size") == "24"
    with pytest.raises(TypeError if wrong_type else ValueError, match=message):
        tiny_config(family, **options)


@pytest.mark.compat
@over_families
def test_an_unknown_attribute_is_refused_before_it_is_saved(family, tmp_path):
    config = tiny_config(family)
    config.hiden_size = 3
    with pytest.raises(TypeError, match="has no field 'hiden_size'"):
        config.save_pretrained(tmp_path)
    assert [*tmp_path.iterdir()] == []


@over_families
def test_defaults_and_sizes_alone_build(family):
    config = family.config_class(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    family.model_class("AutoModel")(config)


@pytest.mark.compat
@over_families
def test_every_auto_class_stands_in_the_auto_map(family):
    entries = tiny_config(family).auto_map
    assert entries.keys() == {"AutoConfig", *family.class_names}
    for auto_class, name in family.class_names.items():
        assert entries[auto_class] == f"modeling_{family.model_type}.{name}"


#: A value of every field of the shared config that changes a model's output, parameters or behaviour.
CHANGES = {
    "vocab_size": 70,
    "hidden_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "hidden_act": "relu",
    "max_position_embeddings": 90,
    "layer_norm_eps": 0.5,
    "init_scheme": "authors",
    "initializer_range": 0.5,
    "norm_position": "post",
    "norm_type": "rms_norm",
    "embedding_norm": True,
    "last_norm": False,
    "block_skip": True,
    "cls_position": False,
    "pad_token_id": 5,
    "classifier_hidden_size": [7, 9],
    "classifier_act": "relu",
    "pair_features": "interaction",
    "pooling": "mean",
}
FAMILY_CHANGES = {
    "luna": {
        "norm_position": "pre",
        "embedding_norm": False,
        "last_norm": True,
        "memory_size": 6,
        "pooling": "memory",
        "shared_projections": ["query"],
        "use_value_projection": False,
        "pack_temperature": "unit",
        "unpack_temperature": "unit",
    },
    "simpletron": {"attention_scale": "sqrt_len_dim", "use_output_projection": True},
    "kernel_transformer": {
        "feature_map": "elu",
        "num_features": 5,
        "num_kernel_layers": 2,
        "kernel_init": "uniform",
        "normalizer_eps": 1.0,
    },
    "memory_transformer": {
        "pooling": "memory",
        "memory_size": 6,
        "segment_length": 3,
        "memory_filter": "conv",
        "filter_kernel_size": 2,
        "filter_stride": 3,
        "filter_windows": "full",
    },
    "vanilla_transformer": {},
}


FAMILY_CHANGES["convluna"] = FAMILY_CHANGES["luna"] | {
    "shared_projections": ["query", "value"],
    "use_value_projection": True,
    "memory_filter": "max_pool",
    "filter_kernel_size": 3,
    "filter_stride": 2,
    "filter_windows": "full",
}
for name in ("simpletron", "kernel_transformer", "vanilla_transformer"):
    FAMILY_CHANGES[name] |= {"key_value_filter": "avg_pool", "filter_kernel_size": 3}
#: Options without which a field of a family has no effect.
NEEDED = {
    **{(name, "use_value_projection"): {"shared_projections": []} for name in ("luna", "convluna")},
    **{(name, "filter_kernel_size"): {"key_value_filter": "conv"} for name in FAMILY_CHANGES},
    **{
        ("memory_transformer", f"filter_{field}"): {"memory_filter": "avg_pool"}
        for field in ("kernel_size", "stride", "windows")
    },
    **{(name, "unpack_temperature"): {"initializer_range": 0.5} for name in ("luna", "convluna")},
    ("convluna", "shared_projections"): {"use_value_projection": True},
    ("convluna", "filter_kernel_size"): {},
}


def fingerprint(family, **options):
    torch.manual_seed(0)
    model = family.model_class("AutoModelForSequenceClassification")(tiny_config(family, **options)).eval()
    pair = {"pair_input_ids": random_ids(2, 5)} if "pair_features" in options else {}
    ids = torch.cat([random_ids(2, 6), torch.full((2, 1), 5)], dim=1)
    return model.num_parameters(), model(ids, **pair).logits


@over_families
def test_every_field_changes_something(family):
    baseline = fingerprint(family)
    assert torch.equal(fingerprint(family)[1], baseline[1])
    for field, value in (CHANGES | FAMILY_CHANGES.get(family.model_type, {})).items():
        needed = NEEDED.get((family.model_type, field), {})
        before = fingerprint(family, **needed) if needed else baseline
        changed = fingerprint(family, **needed | {field: value})
        assert changed[0] != before[0] or not torch.equal(changed[1], before[1]), field
    if family.causal:
        assert not torch.equal(fingerprint(family, is_decoder=True)[1], baseline[1])


#: Fields whose dropout a family has, beside those that every family has.
DROPOUTS = {"simpletron": "attention_probs_dropout_prob", "vanilla_transformer": "attention_probs_dropout_prob"}
DROPOUTS |= dict.fromkeys(("luna", "convluna", "memory_transformer"), "attention_probs_dropout_prob")
DROPOUTS["kernel_transformer"] = "kernel_dropout_prob"


#: The place of every other dropout: the module of a classifier that has its probability.
PLACES = {
    "embedding_dropout_prob": "model.embeddings.dropout",
    "attention_output_dropout_prob": "model.layers.0.dropout",
    "classifier_dropout": "classifier.dropout",
}


def dropout_places(family):
    memory = {"memory_dropout_prob": "model.layers.0.memory_dropout"}
    return PLACES | (memory if "memory_dropout_prob" in family.config_class.__dataclass_fields__ else {})


@over_families
def test_every_dropout_has_a_probability_of_its_own(family):
    places = dropout_places(family)
    model_class = family.model_class("AutoModelForSequenceClassification")
    own = {field: index / 10 for index, field in enumerate(places)}
    for options, expected in (({}, dict.fromkeys(places, 0.9)), (own, own)):
        model = model_class(tiny_config(family, hidden_dropout_prob=0.9, **options))
        assert {field: model.get_submodule(name).p for field, name in places.items()} == expected
        assert model.model.layers[0].mlp.dropout.p == 0.9


@over_families
def test_dropouts_act_in_training_only(family):
    inside = [DROPOUTS[family.model_type]] if family.model_type in DROPOUTS else []
    for field in ("hidden_dropout_prob", *dropout_places(family), *inside):
        options = {"initializer_range": 0.5, field: 0.5}
        model = family.model_class("AutoModelForSequenceClassification")(tiny_config(family, **options))
        ids = random_ids(2, 9)
        assert torch.equal(model.eval()(ids).logits, model(ids).logits), field
        assert not torch.equal(model.train()(ids).logits, model(ids).logits), field


def test_causal_simpletron_refuses_to_train_with_a_dropout_that_is_not_defined():
    model = tiny_model(FAMILIES[0], "AutoModelForCausalLM", attention_probs_dropout_prob=0.1)
    ids = random_ids(1, 5)
    model(ids)
    with pytest.raises(ValueError, match=r"dropout_p=0\.1 acts on the summed state"):
        model.train()(ids)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simpletron", {"filter_kernel_size": 0}, "filter_kernel_size must be positive, got 0"),
        ("vanilla_transformer", {"key_value_filter": "max"}, "key_value_filter"),
        ("luna", {"memory_size": 0}, "memory_size must be positive, got 0"),
        ("luna", {"shared_projections": ["keys"]}, r"shared_projections may name .*, not \['keys'\]"),
        ("luna", {"use_value_projection": False}, "names the value projection, which use_value_projection=False"),
        ("luna", {"memory_size": 1, "unpack_temperature": "learned"}, "memory_size=1 leaves the unpacking softmax"),
        ("convluna", {"filter_stride": 0}, "filter_stride must be positive, got 0"),
        ("convluna", {"memory_filter": "none", "filter_stride": 2}, "no windows to take filter_stride=2 between"),
        ("convluna", {"memory_filter": "none", "filter_windows": "full"}, "filter_windows='full' leaves some out"),
        ("memory_transformer", {"filter_windows": "full"}, "filter_windows='full' leaves some out"),
        ("luna", {"memory_dropout_prob": 1.5}, r"memory_dropout_prob must lie in \[0, 1\), got 1.5"),
        (
            "memory_transformer",
            {"segment_length": 4, "cls_position": False},
            "with segment_length=4 every segment begins at position 0: leave cls_position=True",
        ),
    ],
)
def test_options_that_clash_are_refused(name, options, message):
    family = find(name)
    with pytest.raises(ValueError, match=message):
        tiny_config(family, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_map": "elu", "num_features": 5}, r"'elu' keeps the head size \(8\), but num_features is 5"),
        (
            {"feature_map": "favor", "num_kernel_layers": 2},
            r"num_kernel_layers=2 is for the feature maps .* not for 'favor'",
        ),
        ({"feature_map": "relu", "orthogonality_penalty": 0.1}, "orthogonality_penalty=0.1 is for the feature maps"),
        ({"feature_map": "spectral", "kernel_dropout_prob": 0.1}, "kernel_dropout_prob=0.1 is for the feature maps"),
        ({"feature_map": "elu", "kernel_init": "uniform"}, "kernel_init='uniform' is for the feature maps"),
        ({"kernel_dropout_prob": 1.0}, r"kernel_dropout_prob must lie in \[0, 1\), got 1.0"),
        ({"kernel_rank": 2}, "kernel_rank=2 is for feature_map='low_rank_glu', not for 'glu'"),
        ({"num_kernel_layers": 0}, "num_kernel_layers must be positive, got 0"),
        ({"num_features": 0}, "num_features must be positive, got 0"),
        ({"attention_probs_dropout_prob": 0.1}, "acts on weights that kernel attention .* never builds"),
        ({"feature_map": "exp"}, "feature_map"),
    ],
)
def test_kernel_options_that_clash_are_refused(options, message):
    family = find("kernel_transformer")
    with pytest.raises(ValueError, match=message):
        tiny_config(family, **options)


@over_causal_families
def test_remaining_fields_are_read(family):
    causal = tiny_model(family, "AutoModelForCausalLM")
    ids = random_ids(1, 4)
    assert causal(ids).cache is not None
    assert tiny_model(family, "AutoModelForCausalLM", use_cache=False)(ids).cache is None
    assert causal.train()(ids).cache is None, "training makes no cache"
    assert causal.generation_config.bos_token_id == causal.config.bos_token_id
    assert causal.generation_config.eos_token_id == causal.config.eos_token_id
    untied = tiny_model(family, "AutoModelForCausalLM", tie_word_embeddings=False)
    assert untied.num_parameters() == causal.num_parameters() + 64 * 24


@pytest.mark.compat
@over_heads("AutoModelForCausalLM", "AutoModelForMaskedLM")
def test_language_models_share_the_embedding(family, auto_class):
    model = tiny_model(family, auto_class)
    assert model.lm_head.weight is model.get_input_embeddings().weight


@over_causal_families
def test_the_head_decides_the_direction_and_leaves_the_config_alone(family):
    config = tiny_config(family)
    assert family.model_class("AutoModelForCausalLM")(config).config.is_decoder
    assert not config.is_decoder
    config.is_decoder = True
    assert not family.model_class("AutoModelForMaskedLM")(config).config.is_decoder
    assert config.is_decoder


@pytest.mark.compat
@over_families
def test_initialisation(family):
    model = family.model_class("AutoModelForMaskedLM")(tiny_config(family, hidden_size=192, vocab_size=500))
    assert torch.equal(model.model.embeddings.positions.weight, torch.zeros(80, 192))
    assert torch.equal(model.get_input_embeddings().weight[0], torch.zeros(192)), "padding"
    for name, parameter in model.named_parameters():
        if "feature_map" in name or "filter" in name:
            continue
        if name.endswith("memory.cells"):
            assert abs(parameter.std().item() - 1) < 0.1
            continue
        if parameter.dim() == 2 and "positions" not in name:
            assert abs(parameter.std().item() - 0.02) < 0.002, name
        elif "norm" in name and name.endswith("weight"):
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        elif name.endswith(("bias", "log_temperature")):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name


def assert_uniform(name, weights, bound):
    assert weights.abs().max() <= bound, name
    assert abs(weights.std().item() * 3**0.5 / bound - 1) < 3 / weights.numel() ** 0.5, name


@over_families
@pytest.mark.parametrize("scheme", ["authors", "authors_2021"])
def test_initialisation_of_the_authors(family, scheme):
    config = tiny_config(family, hidden_size=192, vocab_size=500, init_scheme=scheme, num_labels=150)
    torch.manual_seed(0)
    language_model, classifier = map(
        family.model_class, ("AutoModelForMaskedLM", "AutoModelForSequenceClassification")
    )
    # A checkpoint that lacks everything leaves the start of all weights to the scheme as well.
    loaded = language_model.from_pretrained(None, config=config, state_dict={})
    for model in (language_model(config), classifier(config), loaded):
        tokens = model.get_input_embeddings().weight
        assert torch.equal(tokens[0], torch.zeros(192)), "padding"
        assert abs(tokens[2:].std().item() - 1) < 0.02, "shared with the head or not"
        if scheme == "authors":
            assert_uniform("[CLS]", tokens[1], (3 / 192) ** 0.5)
        else:
            assert torch.equal(tokens[1], torch.zeros(192)), "[CLS]"
        assert torch.equal(model.model.embeddings.positions.weight, torch.zeros(80, 192))
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                bound = module.in_features**-0.5
                if getattr(model, "lm_head", None) is not module:
                    assert_uniform(name, module.weight, bound)
                if module.bias is not None:
                    assert_uniform(name, module.bias, bound)
            elif isinstance(module, torch.nn.LayerNorm):
                assert torch.equal(module.weight, torch.ones(192)) and torch.equal(module.bias, torch.zeros(192)), name


@over_families
def test_pixels_start_as_the_authors_start_them(family):
    sizes = {"hidden_size": 960, "num_channels": 3, "num_hidden_layers": 1, "max_position_embeddings": 5}
    embeddings = family.model_class("AutoModel")(tiny_config(family, init_scheme="authors", **sizes)).embeddings
    for weights, deviation in ((embeddings.pixels.weight, 1), (embeddings.pixels.bias, 0.1), (embeddings.cls, 1)):
        assert abs(weights.std().item() / deviation - 1) < 0.1


def test_kernels_start_orthogonal_or_uniform():
    family = find("kernel_transformer")
    for options, bound in (({}, 1 / 64), ({"num_features": 16}, 1 / 32)):
        config = tiny_config(family, hidden_size=192, feature_map="linear", kernel_init="uniform", **options)
        weight = family.model_class("AutoModel")(config).layers[0].attention.feature_map.weight_0
        assert_uniform("kernel", weight, bound)
    assert abs(bound / 2 / 3**0.5 - 0.009) < 1e-4, "the figure of the authors' start at 64 channels per head"


@over_families
def test_scale_norm_is_an_rms_norm_with_one_gain(family):
    norm = tiny_model(family, norm_type="scale_norm").layers[0].mlp_norm
    x = torch.randn(5, 24, dtype=torch.float64)
    expected = norm.weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    assert norm.weight.shape == (1,)
    torch.testing.assert_close(norm(x), expected)


@over_families
def test_auto_classes_build_from_a_config_file(family, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": family.model_type, **SIZES}))
    model = AutoModel.from_config(AutoConfig.from_pretrained(path))
    assert type(model) is family.model_class("AutoModel")
