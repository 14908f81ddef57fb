"""Every head of every family: shapes, losses, gradients, and bad inputs."""

import pytest
import torch
from transformers import DynamicCache

from hf_effattn.models.base_sequence import SequenceInfo
from hf_effattn.models.skeleton_heads import pool
from tests.models.variants import (
    FAMILIES,
    over_causal_families,
    over_families,
    over_heads,
    over_variants,
    padded,
    random_ids,
    tiny_config,
    tiny_model,
)
from tests.numerics import assert_close


pytestmark = pytest.mark.compat


IDS, MASK = padded([random_ids(1, 11)[0], random_ids(1, 6)[0]], "right")
TOKENS = {"input_ids": IDS, "attention_mask": MASK}
CLASSES = torch.tensor([0, 2])

#: Head -> options, inputs with labels, and the shape of its logits.
CASES = {
    "AutoModelForMaskedLM": ({}, TOKENS | {"labels": IDS}, (2, 11, 64)),
    "AutoModelForCausalLM": ({}, TOKENS | {"labels": IDS}, (2, 11, 64)),
    "AutoModelForSequenceClassification": ({"num_labels": 3}, TOKENS | {"labels": CLASSES}, (2, 3)),
    "AutoModelForTokenClassification": ({"num_labels": 3}, TOKENS | {"labels": IDS % 3}, (2, 11, 3)),
    "AutoModelForQuestionAnswering": (
        {},
        TOKENS | {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])},
        (2, 11),
    ),
    "AutoModelForMultipleChoice": (
        {},
        {name: torch.stack([tensor, tensor.flip(0)], dim=1) for name, tensor in TOKENS.items()}
        | {"labels": torch.tensor([1, 0])},
        (2, 2),
    ),
    "AutoModelForImageClassification": (
        {"num_channels": 3, "num_labels": 3},
        {"pixel_values": torch.rand(2, 3, 5, 4), "labels": CLASSES},
        (2, 3),
    ),
}


@over_variants
@pytest.mark.parametrize("auto_class", CASES)
def test_head(family, options, auto_class):
    if auto_class not in family.class_names:
        with pytest.raises(ValueError, match=f"{family.name} has no {auto_class}"):
            family.model_class(auto_class)
        return
    case, inputs, shape = CASES[auto_class]
    model = tiny_model(family, auto_class, **options | case).train()
    output = model(**inputs)
    logits = output.start_logits if "Question" in auto_class else output.logits
    assert logits.shape == shape
    output.loss.backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias that adds the same to all arguments of a softmax has no gradient but rounding: that of its keys, and that
    # of the logits of all positions of an answer, or of all choices.
    exempt = ["qa_outputs.bias", *(["classifier.logits.bias"] if "Choice" in auto_class else [])]
    exempt += [] if family.attention.startswith(("Q", "φ")) else ["key.bias"]
    assert [name for name in unused if not name.endswith(tuple(exempt))] == []


@over_heads(*CASES)
def test_a_config_may_want_tuples(family, auto_class):
    options, inputs, shape = CASES[auto_class]
    model = tiny_model(family, auto_class, **options)
    expected = model(**inputs)
    model.config.return_dict = False
    loss, logits, *_ = model(**inputs)
    assert torch.equal(loss, expected.loss) and logits.shape == shape
    assert torch.equal(model(**inputs, return_dict=True).loss, loss)


@over_families
def test_every_choice_gets_the_logit_of_a_classifier_with_one(family):
    model = tiny_model(family, "AutoModelForMultipleChoice")
    one = tiny_model(family, "AutoModelForSequenceClassification", num_labels=1)
    one.load_state_dict(model.state_dict())
    ids, mask = padded([random_ids(1, length, seed=length)[0] for length in (9, 5, 7, 9, 1, 8)], "left")
    batch = {"input_ids": ids.view(2, 3, 9), "attention_mask": mask.view(2, 3, 9)}
    labels = torch.tensor([2, 0])
    output = model(**batch, labels=labels)
    alone = torch.cat([one(row[real.bool()][None]).logits for row, real in zip(ids, mask, strict=True)]).view(2, 3)
    assert_close("logits", output.logits, alone)
    assert_close("loss", output.loss, -alone.log_softmax(-1)[[0, 1], labels].mean())
    embedded = model.get_input_embeddings()(batch["input_ids"])
    extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0).view(2, 3, 9), "token_type_ids": 0 * batch["input_ids"]}
    assert_close("embedded", model(inputs_embeds=embedded, attention_mask=batch["attention_mask"]).logits, alone)
    assert_close("extra", model(**batch, **extra, cache_position=None, tokenizer=None).logits, alone)


@over_families
def test_choices_of_another_shape_are_refused(family):
    model = tiny_model(family, "AutoModelForMultipleChoice")
    ids = random_ids(6, 9).view(2, 3, 9)
    for wrong in (
        {"input_ids": ids[:, 0]},
        {"input_ids": ids, "attention_mask": torch.ones(2, 9)},
        {"input_ids": ids, "attention_mask": torch.ones(3, 2, 9)},
        {"input_ids": ids, "position_ids": torch.arange(9)[None, None]},
        {"inputs_embeds": torch.rand(2, 9, 24)},
    ):
        with pytest.raises(ValueError, match=r"multiple choice reads \[batch, choices, length\].*\[2, .*SequenceCl"):
            model(**wrong)
    with pytest.raises(ValueError, match="give exactly one of input_ids"):
        model()
    with pytest.raises(ValueError, match="they would be lost"):
        model(ids, token_type_ids=(torch.arange(9) > 3).long().expand_as(ids))
    with pytest.raises(TypeError, match=r"unknown arguments \['atention_mask'\]"):
        model(ids, atention_mask=None)
    with pytest.raises(ValueError, match=r"'concat' is for classifiers of pairs.* set pair_features=None"):
        tiny_model(family, "AutoModelForMultipleChoice", pair_features="concat")


@over_families
@pytest.mark.parametrize("pair_features", ["concat", "interaction"])
def test_pairs(family, pair_features):
    model = tiny_model(family, "AutoModelForSequenceClassification", pair_features=pair_features)
    first, second = random_ids(2, 9, seed=1), random_ids(2, 5, seed=2)
    logits = model(first, pair_input_ids=second).logits
    assert logits.shape == (2, 2)
    assert (logits - model(second, pair_input_ids=first).logits).abs().max() > 1e-3, "the order counts"
    ids, mask = padded([second[0], second[1, :3]], "right")
    padded_logits = model(first, pair_input_ids=ids, pair_attention_mask=mask).logits
    alone = model(first[1:], pair_input_ids=second[1:, :3]).logits
    assert_close("second row", padded_logits[1:], alone)
    with pytest.raises(ValueError, match="pair_input_ids is missing"):
        model(first)
    with pytest.raises(ValueError, match="pair_features=None, but pair_input_ids was given"):
        tiny_model(family, "AutoModelForSequenceClassification")(first, pair_input_ids=second)


@over_causal_families
def test_a_loss_needs_no_cache(family):
    model, ids = tiny_model(family, "AutoModelForCausalLM"), random_ids(1, 5)
    assert model(ids).cache is not None
    assert model(ids, labels=ids).cache is None
    assert model(ids, labels=ids, use_cache=True).cache is not None


def test_a_mean_over_many_tokens_stays_in_the_range_of_half_precision():
    assert pool(torch.full((1, 4096, 1), 20.0).half(), None, "mean").item() == 20


def test_a_sequence_follows_the_model_to_another_device():
    mask = torch.ones(1, 3, dtype=torch.bool)
    moved = SequenceInfo(3, mask, mask.long().cumsum(1), mask.sum(1, keepdim=True)).to(torch.device("meta"))
    assert {moved.key_mask.device.type, moved.token_counts.device.type, moved.total_counts.device.type} == {"meta"}
    assert SequenceInfo(3, None, mask, mask).to(torch.device("meta")).key_mask is None


@over_families
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["cls", "last", "mean", "memory"])
def test_pooling_reads_real_tokens_only(family, side, pooling):
    if pooling == "memory" and not family.config_class.has_memory:
        with pytest.raises(ValueError, match='pooling="memory" reads a memory'):
            tiny_config(family, pooling=pooling)
        return
    model = tiny_model(family, "AutoModelForSequenceClassification", pooling=pooling)
    rows = [random_ids(1, 9)[0], random_ids(1, 4)[0]]
    ids, mask = padded(rows, side)
    together = model(ids, attention_mask=mask).logits
    for i, row in enumerate(rows):
        assert_close(f"row {i}", together[i : i + 1], model(row[None]).logits)


@over_causal_families
def test_a_decoder_is_read_at_its_last_token(family):
    model = tiny_model(family, "AutoModelForSequenceClassification", is_decoder=True)
    assert model.pooling == "last"
    with pytest.raises(ValueError, match='pooling="cls" reads the first token'):
        tiny_model(family, "AutoModelForSequenceClassification", is_decoder=True, pooling="cls")


@over_families
def test_grey_pictures_in_rgb_are_those_of_one_channel_and_colours_are_refused(family):
    model = tiny_model(family, "AutoModelForImageClassification", num_channels=1)
    grey = torch.rand(2, 1, 3, 4, dtype=torch.float64)
    rgb = grey.expand(-1, 3, -1, -1).clone()
    assert torch.equal(model(rgb).logits, model(grey).logits)
    rgb[1, 2, 0, 0] += 0.5
    with pytest.raises(ValueError, match=r"reads grey pictures \(num_channels=1\).* make the pictures grey first"):
        model(rgb)


@over_families
def test_image_pixels_are_read_in_raster_order(family):
    model = tiny_model(family, num_channels=1)
    image = torch.rand(1, 1, 3, 4, dtype=torch.float64)
    embedded = model.embeddings.embed_pixels(image)
    assert embedded.shape == (1, 13, 24)
    assert_close("pixel (1, 2)", embedded[0, 1 + 4 + 2], model.embeddings.pixels(image[0, :, 1, 2]))
    assert_close("cls", embedded[0, 0], model.embeddings.cls)


@over_families
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "exactly one of input_ids, inputs_embeds and pixel_values, got 0"),
        ({"input_ids": IDS, "inputs_embeds": torch.rand(2, 11, 24)}, "got 2"),
        ({"input_ids": IDS[:0]}, "and not empty"),
        ({"input_ids": IDS[:, :0]}, "and not empty"),
        ({"input_ids": IDS[0]}, r"must be \[batch, length\] and not empty, got \[11\]"),
        ({"inputs_embeds": IDS.float()}, r"must be \[batch, length, hidden\] and not empty, got \[2, 11\]"),
        ({"pixel_values": torch.rand(3, 2, 2)}, r"must be \[batch, channels, height, width\]"),
        (
            {"input_ids": torch.full((1, 5), 64)},
            r"input_ids must lie in \[0, vocab_size=64\), got values from 64 to 64",
        ),
        ({"input_ids": torch.full((1, 5), -1)}, "got values from -1 to -1"),
        ({"input_ids": torch.ones(1, 81, dtype=torch.long)}, "81 positions, more than max_position_embeddings=80"),
        (
            {"input_ids": IDS, "position_ids": torch.arange(75, 86)[None]},
            r"position_ids must lie in \[0, max_position",
        ),
        ({"input_ids": IDS, "attention_mask": MASK[:, :-1]}, r"attention_mask must be \[batch, length\] = \[2, 11\]"),
        ({"input_ids": IDS, "attention_mask": MASK[:1]}, r"got \[1, 11\]"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 1, 11, 11)}, "masks per query are not supported"),
        ({"pixel_values": torch.rand(1, 1, 2, 2)}, "this model reads input_ids, not pixel_values"),
    ],
)
def test_bad_inputs_meet_a_clear_error(family, inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(family)(**inputs)


@over_families
def test_unknown_arguments_and_wrong_uses_meet_a_clear_error(family):
    model = tiny_model(family)
    with pytest.raises(TypeError, match=r"unknown arguments \['head_mask'\]"):
        model(IDS, head_mask=None)
    with pytest.raises(ValueError, match="a cache only works with is_decoder=True"):
        model(IDS, cache=DynamicCache())
    images = tiny_model(family, num_channels=1)
    with pytest.raises(ValueError, match="num_channels=1: this model reads pixel_values"):
        images(IDS)
    with pytest.raises(ValueError, match=r"must be \[batch, num_channels=1, height, width\]"):
        images(pixel_values=torch.rand(1, 2, 2, 2))
    with pytest.raises(ValueError, match="set num_channels"):
        family.model_class("AutoModelForImageClassification")(tiny_config(family))
    with pytest.raises(ValueError, match="a language model reads tokens"):
        tiny_model(family, "AutoModelForMaskedLM", num_channels=1)
    with pytest.raises(ValueError, match="unknown attention_backend 'cuda'"):
        tiny_model(family, attention_backend="cuda")(IDS)


def test_simpletron_scales_count_real_tokens():
    """SimpleTRON's layer is Q (K^T V) / sqrt(n), or / sqrt(n d), written out here with loops over rows."""
    family = FAMILIES[0]
    for scale, width in (("sqrt_len", 1), ("sqrt_len_dim", 8)):
        model = tiny_model(family, attention_scale=scale)
        attention = model.layers[0].attention
        seen = {}
        attention.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.update(x=inputs[0], y=output[0])
        )
        model(IDS, attention_mask=MASK)
        for row, n in enumerate((11, 6)):
            x = seen["x"][row, :n]
            heads = []
            for h in range(3):
                part = slice(8 * h, 8 * h + 8)
                q, k, v = attention.query(x)[:, part], attention.key(x)[:, part], attention.value(x)[:, part]
                heads.append(q @ (k.T @ v) / (n * width) ** 0.5)
            assert_close(f"{scale} row {row}", seen["y"][row, :n], torch.cat(heads, dim=-1))
