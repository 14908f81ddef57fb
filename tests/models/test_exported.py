"""Graphs of models: exported ones run without this package and at any length, compiled ones are few."""

import subprocess
import sys

import pytest
import torch

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
    family = next(family for family in FAMILIES if family.model_type == name)
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
    with pytest.raises(Exception, match=r"segment_length=5 .*: export with inputs of one length"):
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
            assert_close("logits", exported.module()(**given)[0], model(**given)[0])


def test_a_backend_by_name_is_exported_as_asked():
    exported = export(made("simpletron", attention_backend="cpu"), dynamic=False)
    assert "hf_effattn_kernels.linear_attention.default" in operators(exported)


def test_an_exported_model_runs_where_this_package_is_not(tmp_path):
    """With ``return_dict=False``: the classes of outputs are this package's."""
    model, given = made("simpletron"), inputs(2, 9)
    torch.export.save(export(model, dynamic=True), tmp_path / "model.pt2")
    torch.save({"given": given, "expected": model(**given)[0].detach()}, tmp_path / "expected.pt")
    script = (
        "import sys, torch\n"
        "for name in ('hf_effattn', 'transformers'): sys.modules[name] = None\n"
        "known = torch.load('expected.pt')\n"
        "found = torch.export.load('model.pt2').module()(**known['given'])[0]\n"
        "torch.testing.assert_close(found, known['expected'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
