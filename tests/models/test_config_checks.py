"""No config lies: what a field cannot be is refused when it is set, and the whole when a model is built or saved."""

import copy
import dataclasses
import math
import pickle
from typing import ClassVar, get_args

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.activations import ACT2FN

from hf_effattn.families import find
from hf_effattn.models.backend_table import LIBRARY_BACKENDS, Backend, backends, register_backend
from hf_effattn.models.configuration_checks import strict_config
from hf_effattn.models.configuration_effattn import EffAttnConfig
from tests.models.variants import CAUSAL_FAMILIES, FAMILIES, over_families, random_ids, tiny_config, tiny_model


#: Whole numbers that are counts or ids, and so may be zero.
MAY_BE_ZERO = {"num_hidden_layers", "pad_token_id", "bos_token_id", "eos_token_id", "chunk_size_feed_forward"}


def number_fields(family) -> dict[str, bool]:
    """The fields of a family that hold numbers, and whether they hold real ones."""
    types = {field.name: {field.type, *get_args(field.type)} for field in dataclasses.fields(family.config_class)}
    return {name: float in kinds for name, kinds in types.items() if kinds & {int, float}}


@over_families
def test_no_field_takes_a_number_that_makes_no_sense(family):
    numbers = number_fields(family)
    assert {"hidden_size", "layer_norm_eps", "eos_token_id", "hidden_dropout_prob"} < numbers.keys()
    for name, real in numbers.items():
        wrong = [-1.0, math.nan, math.inf, -math.inf, 1e39] if real else [-1, 2**63]
        wrong += [1.0, 1] if "dropout" in name else []
        wrong += [] if real or name in MAY_BE_ZERO else [0]
        for value in wrong:
            with pytest.raises(ValueError, match=name):
                tiny_config(family, **{name: value})
        for value in [True, "1", [True], *([] if real else [1.0, math.nan])]:
            with pytest.raises(TypeError, match=name):
                tiny_config(family, **{name: value})


@over_families
def test_a_number_that_makes_no_sense_is_refused_when_it_is_set(family):
    config = tiny_config(family)
    for name in number_fields(family):
        before = getattr(config, name)
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(config, name, math.nan)
        assert getattr(config, name) == before, name
    with pytest.raises(ValueError, match="eos_token_id must not be negative, got -3"):
        config.eos_token_id = [2, -3]


def test_a_family_may_have_numbers_below_zero():
    @strict_config
    class SignedConfig(EffAttnConfig):
        model_type: ClassVar[str] = "signed"
        lowest_values: ClassVar[dict[str, float]] = EffAttnConfig.lowest_values | {"offset": -2}

        offset: float = 0.0

    assert SignedConfig(offset=-2.0).offset == -2
    with pytest.raises(ValueError, match="offset must be at least -2, got -3"):
        SignedConfig(offset=-3.0)


@over_families
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hidden_size": 25}, ValueError),
        ({"hidden_size": 0}, ValueError),
        ({"norm_type": "batch_norm"}, ValueError),
        ({"norm_type": 3}, TypeError),
        ({"pooling": "first"}, ValueError),
        ({"pooling": 1}, TypeError),
        ({"is_decoder": 1}, TypeError),
        ({"eos_token_id": "2"}, TypeError),
    ],
)
def test_the_error_is_a_plain_one_and_that_of_strict_dataclasses(family, options, error):
    with pytest.raises(error, match=next(iter(options))) as caught:
        tiny_config(family, **options)
    assert isinstance(caught.value, StrictDataclassError)
    assert not isinstance(caught.value, TypeError if error is ValueError else ValueError)
    # An error of a worker process comes home in a pickle.
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value) and str(again) == str(caught.value)


def clash(config):
    config.hidden_size = 25


def update(config):
    config.update({"hidden_size": 25})


def bypass(config):
    vars(config)["num_hidden_layers"] = "2"


def forget_labels(config):
    config.id2label.clear()


def forget_a_label(config):
    del config.id2label[0]


def turn(config):
    config.is_encoder_decoder = True


def another_activation(config):
    config.hidden_act = "gelou"


def another_backend(config):
    config.attention_backend = "cuda"


CHANGES = [
    (clash, ValueError, r"hidden_size \(25\) must be a multiple"),
    (update, ValueError, r"hidden_size \(25\) must be a multiple"),
    (bypass, TypeError, "'num_hidden_layers' expected int"),
    (forget_labels, ValueError, r"id2label must name the labels 0, 1, 2, ... without a gap, got \{\}"),
    (forget_a_label, ValueError, "id2label must name the labels 0, 1, 2, ... without a gap"),
    (turn, ValueError, "is_encoder_decoder=True"),
    (another_activation, ValueError, "hidden_act must be one of .*'gelu'.* got 'gelou'"),
    (another_backend, ValueError, "unknown attention_backend 'cuda'"),
]
over_changes = pytest.mark.parametrize(("change", "error", "message"), CHANGES, ids=[c[0].__name__ for c in CHANGES])


def check_changed(family, config, error, message, folder):
    """A changed config, and its copy, build no model and are not saved."""
    for changed in (config, copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        for auto_class in ("AutoModel", "AutoModelForSequenceClassification"):
            with pytest.raises(error, match=message):
                family.model_class(auto_class)(changed)
        with pytest.raises(error, match=message):
            changed.save_pretrained(folder)
    assert [*folder.glob("*")] == [], "nothing is written"


@over_families
@over_changes
def test_a_changed_config_is_checked_again(family, change, error, message, tmp_path):
    config = tiny_config(family)
    change(config)
    check_changed(family, config, error, message, tmp_path)


@over_changes
def test_a_model_whose_config_was_changed_is_not_saved(change, error, message, tmp_path):
    model = tiny_model(FAMILIES[0])
    change(model.config)
    with pytest.raises(error, match=message):
        model.save_pretrained(tmp_path)
    assert not [*tmp_path.glob("*.json"), *tmp_path.glob("*.safetensors")]


#: Clashes of fields that not every family has, each made by a change of one of them.
FAMILY_CLASHES = [
    ("kernel_transformer", {"feature_map": "elu"}, {"num_features": 99}, r"keeps the head size \(8\)"),
    ("kernel_transformer", {}, {"feature_map": "relu", "orthogonality_penalty": 0.5}, "is for the feature maps"),
    ("luna", {}, {"use_value_projection": False}, "names the value projection"),
    ("convluna", {"filter_stride": 2}, {"memory_filter": "none"}, "no windows to take filter_stride=2 between"),
    ("memory_transformer", {}, {"backprop_segments": 2}, "needs segment_length"),
]


@pytest.mark.parametrize(("name", "options", "changes", "message"), FAMILY_CLASHES)
def test_a_clash_is_found_whichever_way_it_came_in(name, options, changes, message, tmp_path):
    family = find(name)
    config = tiny_config(family, **options)
    config.save_pretrained(tmp_path)
    for load in (family.config_class, AutoConfig, family.model_class("AutoModel"), AutoModel):
        with pytest.raises(ValueError, match=message):
            load.from_pretrained(tmp_path, **changes)
    config.update(changes)
    check_changed(family, config, ValueError, message, tmp_path / "changed")


@pytest.mark.parametrize(("item", "error"), [("keys", ValueError), (3, TypeError)])
def test_a_list_that_was_changed_in_place_is_checked_again(item, error, tmp_path):
    family = find("luna")
    config = tiny_config(family)
    config.shared_projections.append(item)
    check_changed(family, config, error, "shared_projections", tmp_path)


DESCRIPTION = ("family_name", "formula", "cost", "source", "causal", "constant_state", "softmax", "has_memory")


@over_families
@pytest.mark.parametrize("name", DESCRIPTION)
def test_what_describes_a_family_is_no_field(family, name):
    with pytest.raises(TypeError, match=f"has no field '{name}'"):
        tiny_config(family, **{name: True})
    with pytest.raises(TypeError, match=f"has no field '{name}': it belongs to the family"):
        setattr(tiny_config(family), name, True)


@over_families
def test_a_family_is_described_whole(family):
    described = [getattr(family.config_class, name) for name in DESCRIPTION[:4]]
    assert all(described) and described == [family.name, family.attention, family.cost, family.source]
    assert (family.causal, family.constant_state) == (family.config_class.causal, family.config_class.constant_state)
    assert find(family.model_type) == family


def test_families_that_are_not_there():
    with pytest.raises(ValueError, match=r"no family 'bert'; it has \['simpletron', .*'vanilla_transformer'\]"):
        find("bert")


#: Fields of transformers whose types `@strict` cannot check: a version that it writes, and a flag or several indices.
UNCHECKED = {"transformers_version", "output_hidden_states"}


@over_families
def test_a_wrong_type_in_any_field_builds_no_model_and_is_not_saved(family, tmp_path):
    for field in dataclasses.fields(family.config_class):
        if field.name not in UNCHECKED:
            config = tiny_config(family)
            vars(config)[field.name] = object()
            # Whatever is true passes for a flag of transformers that has to be false.
            error = ValueError if field.name == "is_encoder_decoder" else TypeError
            for use in (family.model_class("AutoModel"), lambda config: config.save_pretrained(tmp_path)):
                with pytest.raises(error, match=field.name):
                    use(config)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_labels": 0}, ValueError, "num_labels must be positive, got 0"),
        ({"num_labels": -1}, ValueError, "num_labels must be positive, got -1"),
        ({"num_labels": True}, TypeError, "num_labels must be an integer, got True"),
        ({"num_labels": 2.0}, TypeError, "num_labels must be an integer, got 2.0"),
        ({"id2label": {}}, ValueError, "id2label must name the labels 0, 1, 2"),
        ({"id2label": {1: "a", 2: "b"}}, ValueError, "id2label must name the labels 0, 1, 2"),
        ({"id2label": {0: 1}}, TypeError, "id2label"),
        ({"problem_type": "regresion"}, ValueError, "problem_type"),
        ({"id2label": {"a": "0"}}, ValueError, "from the number of a label to its name"),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 3}, ValueError, "num_labels=3 clashes with the 2 labels"),
        (
            {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
            ValueError,
            r"label2id={'a': 1, 'b': 0} says something else",
        ),
        ({"label2id": {"a": 0, "b": 1}}, ValueError, "needs id2label"),
    ],
)
def test_labels_that_clash_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        tiny_config(FAMILIES[0], **options)


def test_labels_are_refused_when_they_are_set_and_replaced_when_they_are_loaded(tmp_path):
    config = tiny_config(FAMILIES[0], id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    for wrong in (0, -1, False):
        with pytest.raises((TypeError, ValueError), match="num_labels must be"):
            config.num_labels = wrong
    assert config.id2label == {0: "no", 1: "yes"}
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, num_labels=2).id2label == config.id2label
    assert AutoConfig.from_pretrained(tmp_path, num_labels=3).id2label == {i: f"LABEL_{i}" for i in range(3)}
    assert AutoConfig.from_pretrained(tmp_path, id2label={0: "a"}).id2label == {0: "a"}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(tmp_path, num_labels=3))
    assert model.eval()(random_ids(1, 4)).logits.shape == (1, 3)
    # transformers' own names stay behind, and mean nothing.
    config = tiny_config(FAMILIES[0])
    config.id2label = {0: "a", 1: "b"}
    config.validate()


@pytest.mark.parametrize("name", ["float33", "nn", "Tensor"])
@pytest.mark.parametrize("field", ["dtype", "torch_dtype"])
def test_an_unknown_dtype_is_refused(field, name):
    with pytest.raises(ValueError, match=f"dtype must be one of .*'bfloat16'.* got '{name}'"):
        tiny_config(FAMILIES[0], **{field: name})
    with pytest.raises(ValueError, match=f"got '{name}'"):
        tiny_config(FAMILIES[0]).dtype = name
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype, its name, or None, got 32"):
        tiny_config(FAMILIES[0], **{field: 32})


def test_every_activation_of_transformers_is_known():
    for name in ACT2FN:
        assert tiny_config(FAMILIES[0], hidden_act=name).hidden_act == name
    with pytest.raises(ValueError, match=r"hidden_act must be one of .*'gelu_new'.* got 'x'"):
        tiny_config(FAMILIES[0], hidden_act="x")


def test_layers_of_different_configs_are_refused():
    with pytest.raises(TypeError, match="has no field 'per_layer_config'"):
        tiny_config(FAMILIES[0], per_layer_config={0: {"intermediate_size": 7}})


@over_families
def test_backends_are_refused_where_nobody_registered_them(family):
    for name in ("auto", *backends()[family.model_class("AutoModel").attention_operator]):
        tiny_model(family, attention_backend=name)
    with pytest.raises(ValueError, match=r"unknown attention_backend 'cuda'; choose from \['auto', 'triton', 'cpu'"):
        tiny_config(family, attention_backend="cuda")
    if family.config_class.softmax:
        with pytest.raises(
            ValueError, match=r"unknown attention_backend 'cpu' for .*\['auto', 'torch', 'reference'\]"
        ):
            tiny_model(family, attention_backend="cpu")


@over_families
def test_eager_attention_is_the_reference_where_there_is_a_softmax(family):
    softmax = family.config_class.softmax
    assert tiny_config(family, attn_implementation="sdpa").resolved_backend == "auto"
    assert tiny_config(family, attn_implementation="eager").resolved_backend == ("reference" if softmax else "auto")
    named = tiny_config(family, attn_implementation="eager", attention_backend="torch")
    assert named.resolved_backend == "torch"


def test_backends_that_somebody_registered_are_known(monkeypatch):
    assert set(LIBRARY_BACKENDS) == {name for table in backends().values() for name in table}
    monkeypatch.setattr("hf_effattn.models.backend_table._BACKENDS", {})
    register_backend("toy", Backend("theirs", max))
    assert tiny_config(FAMILIES[0], attention_backend="theirs").attention_backend == "theirs"


@over_families
def test_a_checkpoint_that_names_an_unknown_backend_opens_with_another(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"attention_backend": "auto"', '"attention_backend": "of_2028"'))
    for load in (family.config_class, AutoConfig, AutoModel):
        with pytest.raises(ValueError, match=r"unknown attention_backend 'of_2028'(.|\n)*attention_backend=\"auto\""):
            load.from_pretrained(tmp_path)
        load.from_pretrained(tmp_path, attention_backend="auto")


# The memory transformer needs layers in any case, see test_memory.
@pytest.mark.parametrize("family", [f for f in CAUSAL_FAMILIES if not f.config_class.has_memory], ids=lambda f: f.name)
def test_a_decoder_without_layers_has_no_cache(family):
    with pytest.raises(ValueError, match="num_hidden_layers=0 leaves a decoder nothing to cache: set use_cache=False"):
        tiny_model(family, "AutoModelForCausalLM", num_hidden_layers=0)
    model = tiny_model(family, "AutoModelForCausalLM", num_hidden_layers=0, use_cache=False)
    assert model.generate(random_ids(1, 4), max_new_tokens=3, min_new_tokens=3).shape == (1, 7)
    tiny_model(family, num_hidden_layers=0)(random_ids(1, 4))
