"""Graphs of models: exported ones run without this package and at any length, compiled ones are few."""

import subprocess
import sys

import pytest
import torch

from hf_effattn.families import find
from hf_effattn.models.skeleton_outputs import MaskedLMOutput
from tests.models.variants import FAMILIES, random_ids, tiny_model
from tests.numerics import assert_close


#: Family and options of what is exported with a free batch and length.
EXPORTED = [(family.model_type, {}) for family in FAMILIES] + [
    ("simpletron", {"key_value_filter": "conv", "is_decoder": True}),
    ("kernel_transformer", {"feature_map": "favor", "is_decoder": True}),
    ("convluna", {"filter_stride": 3}),
    ("convluna", {"filter_stride": 5, "filter_kernel_size": 2}),
    ("convluna", {"memory_filter": "max_pool", "filter_stride": 2}),
    ("memory_transformer", {"memory_filter": "avg_pool", "filter_stride": 3}),
]
NAMES = ["-".join([name, *map(str, options.values())]) for name, options in EXPORTED]
LENGTH, BATCH = torch.export.Dim("length", min=6, max=60), torch.export.Dim("batch", max=50)


def made(name, **options):
    family = find(name)
    return tiny_model(family, dtype=torch.float32, return_dict=False, num_hidden_layers=1, **options)


def inputs(batch, length):
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, length // 2 :] = 0
    return {"input_ids": random_ids(batch, length), "attention_mask": mask, "use_cache": False}


def export(model, dynamic, length=12):
    free = {0: BATCH, 1: LENGTH} if dynamic else None
    shapes = {"input_ids": free, "attention_mask": free, "use_cache": None}
    return torch.export.export(model, (), kwargs=inputs(3, length), dynamic_shapes=shapes if dynamic else None)


def operators(exported):
    calls = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    return {str(target) for target in calls if isinstance(target, torch._ops.OpOverload)}


@pytest.mark.parametrize(("name", "options"), EXPORTED, ids=NAMES)
def test_exported_models_take_any_batch_and_length(name, options):
    model = made(name, **options)
    exported = export(model, dynamic=True)
    assert {found.split(".")[0] for found in operators(exported)} <= {"aten", "prims", "higher_order"}
    for batch, length in ((2, 6), (4, 7), (2, 31)):
        given = inputs(batch, length)
        with torch.no_grad():
            assert_close("hidden states", exported.module()(**given)[0], model(**given)[0])


@pytest.mark.parametrize("is_decoder", [False, True], ids=["bidirectional", "causal"])
def test_segments_are_exported_for_one_length_and_refuse_to_vary(is_decoder):
    model = made("memory_transformer", segment_length=5, is_decoder=is_decoder)
    exported, given = export(model, dynamic=False), inputs(3, 12)
    assert not [found for found in operators(exported) if "sort" in found], "sorts do not go to ONNX"
    with torch.no_grad():
        assert_close("hidden states", exported.module()(**given)[0], model(**given)[0])
    with pytest.raises(ValueError, match=r"segment_length=5 .*: export with inputs of one length"):
        export(model, dynamic=True)


def test_exported_models_take_any_number_of_choices():
    model = tiny_model(FAMILIES[0], "AutoModelForMultipleChoice", torch.float32, num_hidden_layers=1)

    def choices(batch, number, length):
        rows = inputs(batch * number, length)
        return {name: rows[name].view(batch, number, length) for name in ("input_ids", "attention_mask")}

    free = {0: BATCH, 1: torch.export.Dim("choices", min=2, max=9), 2: LENGTH}
    shapes = {"input_ids": free, "attention_mask": free}
    exported = torch.export.export(model, (), kwargs=choices(3, 4, 12), dynamic_shapes=shapes)
    for sizes in ((2, 3, 6), (4, 2, 31)):
        given = choices(*sizes)
        with torch.no_grad():
            assert_close("logits", exported.module()(**given)["logits"], model(**given).logits)


def test_a_backend_by_name_is_exported_as_asked():
    exported = export(made("simpletron", attention_backend="cpu"), dynamic=False)
    assert "hf_effattn_kernels.linear_attention.default" in operators(exported)


#: What is exported with no more than its inputs: every head of one family, and every family without a head.
WHOLE = [(FAMILIES[0], auto_class) for auto_class in FAMILIES[0].class_names]
WHOLE += [(family, "AutoModel") for family in FAMILIES[1:]] + [(find("memory_transformer"), "AutoModelForCausalLM")]

WITH_TORCH_ALONE = """
import sys, torch
for name in ("hf_effattn", "transformers"): sys.modules[name] = None
for path, (given, expected) in torch.load("expected.pt").items():
    found = torch.export.load(path).module()(**given)
    assert type(found) is dict and found.keys() == expected.keys(), (path, found.keys())
    for name in expected: torch.testing.assert_close(found[name], expected[name])
"""


def test_exported_models_are_loaded_and_run_with_torch_alone(tmp_path):
    known = {}
    for family, auto_class in WHOLE:
        images, choices = "Image" in auto_class, "MultipleChoice" in auto_class
        options = {"num_channels": 1} if images else {}
        model = tiny_model(family, auto_class, torch.float32, num_hidden_layers=1, **options)
        given = {name: tensor for name, tensor in inputs(4, 9).items() if name != "use_cache"}
        given = {name: tensor.view(2, 2, 9) for name, tensor in given.items()} if choices else given
        given = {"pixel_values": torch.rand(2, 1, 3, 4)} if images else given
        path = f"{family.model_type}-{auto_class}.pt2"
        exported = torch.export.export(model, (), kwargs=given)
        torch.export.save(exported, tmp_path / path)
        with torch.no_grad():
            expected = dict(model(**given, **({"use_cache": False} if model.config.is_decoder else {})))
        known[path] = given, expected
    torch.save(known, tmp_path / "expected.pt")
    done = subprocess.run([sys.executable, "-c", WITH_TORCH_ALONE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_call_that_names_the_form_of_its_output_is_exported_in_it():
    model, given = tiny_model(FAMILIES[0], "AutoModelForMaskedLM", torch.float32), {"input_ids": random_ids(2, 9)}
    names = torch.export.export(model, (), kwargs=given, strict=True).graph_signature.user_outputs
    for form, kind in ((True, MaskedLMOutput), (False, tuple)):
        exported = torch.export.export(model, (), kwargs=given | {"return_dict": form})
        assert exported.graph_signature.user_outputs == names, "ONNX names its outputs by them"
        assert type(exported.module()(**given, return_dict=form)) is kind
        assert type(model(**given, return_dict=form)) is kind
    assert type(model(**given)) is MaskedLMOutput, "only an exported program returns a dictionary"
    model.config.return_dict = False
    assert type(torch.export.export(model, (), kwargs=given).module()(**given)) is tuple


@pytest.mark.parametrize("is_decoder", [False, True], ids=["bidirectional", "causal"])
def test_graphs_of_segments_are_few(is_decoder):
    """As many as powers of two, and not as numbers of segments; what the rounding adds is neither read nor written."""
    torch._dynamo.reset()
    model = made("memory_transformer", segment_length=3, is_decoder=is_decoder)
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=counting)
    for length in (7, 10, 13, 17, 23):
        given = inputs(2, length)
        with torch.no_grad():
            for found, expected in zip(compiled(**given), model(**given), strict=True):
                assert_close("hidden states and memory", found, expected)
    assert len(graphs) <= 3, "of the first length alone, of 4 segments, and of 8"
