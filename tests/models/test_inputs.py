"""What any model may be given beside its content: masks, positions, segments, and what generic code passes along."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    DataCollatorWithFlattening,
    DynamicCache,
    EncoderDecoderCache,
    TokenizersBackend,
)

from tests.compat.names import warns_of_the_old_cache_name
from tests.models.variants import (
    FAMILIES,
    over_causal_families,
    over_directions,
    over_families,
    over_heads,
    padded,
    random_ids,
    tiny_config,
    tiny_model,
)
from tests.numerics import assert_close


IDS, MASK = padded([random_ids(1, 11)[0], random_ids(1, 6)[0]], "right")
KEEP = MASK.bool()
TEXT_HEADS = (
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
)


def first_output(model, *args, **kwargs):
    return model(*args, return_dict=False, **kwargs)[0]


@over_families
@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.uint8, torch.long, torch.float16, torch.float64])
def test_a_mask_of_zeros_and_ones_may_have_any_dtype(family, dtype):
    model = tiny_model(family)
    expected = model(IDS, attention_mask=MASK).last_hidden_state
    assert torch.equal(model(IDS, attention_mask=MASK.to(dtype)).last_hidden_state, expected)


#: Masks of another kind, and what the error says of each.
OTHER_MASKS = {
    "additive": (torch.where(KEEP, 0.0, -1e4), "pass mask == 0"),
    "additive-inf": (torch.where(KEEP, 0.0, -torch.inf), "pass mask == 0"),
    "nan": (torch.where(KEEP, 1.0, torch.nan), "1 for real tokens and 0 for padding"),
    "weights": (torch.where(KEEP, 0.5, 0.0), "weighted masks are not supported"),
    "negative": (torch.where(KEEP, 1, -1), "1 for real tokens and 0 for padding"),
    "documents": (torch.where(KEEP, 1, 2), "Give every document a row of its own"),
    "per-query": (torch.ones(2, 11, 11), "masks per query are not supported"),
}


@over_families
@pytest.mark.parametrize("kind", OTHER_MASKS)
def test_a_mask_of_another_kind_is_refused(family, kind):
    mask, message = OTHER_MASKS[kind]
    with pytest.raises(ValueError, match=message):
        tiny_model(family)(IDS, attention_mask=mask)


def test_generate_refuses_a_mask_of_another_kind():
    model = tiny_model(FAMILIES[0], "AutoModelForCausalLM")
    with pytest.raises(ValueError, match="pass mask == 0"):
        model.generate(IDS, attention_mask=OTHER_MASKS["additive"][0], max_new_tokens=2)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@over_directions
def test_a_traced_model_honours_other_masks(family, options, is_decoder):
    """Traced with nothing padded, since then the mask could be left out of the graph."""
    model = tiny_model(family, is_decoder=is_decoder, use_cache=False, **options)

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(ids, attention_mask=mask).last_hidden_state

    traced = torch.jit.trace(Hidden(), (IDS, torch.ones_like(IDS)), check_trace=False)
    expected = model(IDS, attention_mask=MASK).last_hidden_state
    assert_close("hidden states", traced(IDS, MASK)[KEEP], expected[KEEP])


def test_one_graph_takes_every_mask_and_what_stands_beside_it():
    model = tiny_model(FAMILIES[0])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    beside = {"position_ids": torch.arange(11)[None], "token_type_ids": torch.zeros_like(IDS)}
    for mask in (torch.ones_like(IDS), MASK):
        given = {"attention_mask": mask.float(), **beside}
        assert_close("hidden states", compiled(IDS, **given)[0][KEEP], model(IDS, **given)[0][KEEP])


@over_directions
def test_padding_may_hold_anything(family, options, is_decoder):
    """The states of real tokens and every gradient are those of clean padding."""
    model = tiny_model(family, is_decoder=is_decoder, **options).train()
    clean = torch.randn(2, 11, 24, dtype=torch.float64)
    found, junk = [], torch.tensor([torch.nan, torch.inf], dtype=torch.float64).repeat(12)
    for content in (clean, torch.where(KEEP[..., None], clean, junk)):
        content = content.clone().requires_grad_()
        states = model(inputs_embeds=content, attention_mask=MASK).last_hidden_state[KEEP]
        model.zero_grad()
        states.pow(2).sum().backward()
        found.append([states, content.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
    for clean_part, dirty_part in zip(*found, strict=True):
        assert torch.equal(clean_part, dirty_part)


@over_families
def test_masked_pixels_may_hold_anything_and_are_not_pooled(family):
    model = tiny_model(family, "AutoModelForImageClassification", num_channels=2, pooling="mean", num_labels=3)
    clean = torch.rand(2, 2, 3, 4, dtype=torch.float64)
    mask = torch.ones(2, 13, dtype=torch.long)
    mask[1, 7:] = 0
    found = []
    for value in (0.0, torch.nan):
        pixels = torch.where(mask[:, None, 1:].view(2, 1, 3, 4) == 1, clean, value)
        output = model(pixel_values=pixels, attention_mask=mask, labels=torch.tensor([0, 2]))
        model.zero_grad()
        output.loss.backward()
        found.append([output.logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    for clean_part, dirty_part in zip(*found, strict=True):
        assert torch.equal(clean_part, dirty_part)
    # The mean leaves them out, so an image cut off after whole rows is the shorter image.
    mask[1, 9:], mask[1, :9] = 0, 1
    masked = model(pixel_values=clean, attention_mask=mask).logits[1:]
    assert_close("logits", masked, model(pixel_values=clean[1:, :, :2]).logits)


@over_families
def test_positions_of_a_row_in_order_are_taken(family):
    """Those that a model makes itself, those of transformers' `generate`, and others that rise."""
    model = tiny_model(family)
    ids, mask = padded([random_ids(1, 11)[0], random_ids(1, 6)[0]], "left")
    expected = model(ids, attention_mask=mask).last_hidden_state[mask == 1]
    counted = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    assert_close("counted", model(ids, attention_mask=mask, position_ids=counted)[0][mask == 1], expected)
    assert_close("plain", model(ids[:1], position_ids=torch.arange(11)[None])[0], model(ids[:1])[0])
    assert (model(ids[:1], position_ids=2 * torch.arange(11)[None])[0] - model(ids[:1])[0]).abs().max() > 1e-3


@over_families
@pytest.mark.parametrize(
    ("position_ids", "message"),
    [
        (torch.tensor([[0, 1, 2, 0, 1]]), "start anew at column 3 of row 0: packed documents would read one another"),
        (torch.zeros(1, 5, dtype=torch.long), "start anew at column 1"),
        (torch.tensor([[0, 0, 1, 2, 3]]), "If these columns are padding, the attention_mask has to say so"),
        (torch.zeros(1, 1, dtype=torch.long), r"position_ids must be integers \[batch or 1, length\] = \[1, 5\]"),
        (torch.arange(5), r"got \[5\]"),
        (torch.arange(5.0)[None], r"of torch.float32"),
    ],
)
def test_other_positions_are_refused(family, position_ids, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(family)(random_ids(1, 5), position_ids=position_ids)


@over_families
@pytest.mark.parametrize("options", [{}, {"return_flash_attn_kwargs": True, "return_seq_idx": True}], ids=str)
def test_packed_documents_are_refused(family, options):
    collate = DataCollatorWithFlattening(return_tensors="pt", **options)
    batch = collate([{"input_ids": random_ids(1, length)[0].tolist()} for length in (5, 3)])
    batch = {name: value for name, value in batch.items() if name != "labels"}
    with pytest.raises(ValueError, match="Give every document a row of its own"):
        tiny_model(family)(**batch)
    for name in batch.keys() - {"input_ids", "position_ids"}:
        with pytest.raises(ValueError, match=f"{name} cannot be honoured"):
            tiny_model(family)(IDS, **{name: batch[name]})


@over_heads(*TEXT_HEADS)
def test_the_batch_of_a_tokenizer_with_segments(family, auto_class):
    """One segment changes nothing, whatever its number is and whatever stands in padding; two would be lost."""
    model = tiny_model(family, auto_class)
    expected = first_output(model, IDS, attention_mask=MASK)
    for types in (torch.zeros_like(IDS), torch.where(KEEP, 1, 0)):
        assert torch.equal(first_output(model, IDS, attention_mask=MASK, token_type_ids=types), expected)
    types = (torch.arange(11) > 3).long().expand(2, -1)
    with pytest.raises(ValueError, match=r"tokenizer\.model_input_names"):
        model(IDS, attention_mask=MASK, token_type_ids=types)
    with pytest.raises(ValueError, match=r"token_type_ids must be \[batch, length\]"):
        model(IDS, token_type_ids=types[:1])


def test_the_remedy_for_segments_is_saved_with_a_tokenizer(tmp_path):
    """A tokenizer of BERT's kind returns segments until it is told not to."""
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 4, "b": 5, "[SEP]": 6}, unk_token="[PAD]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[("[SEP]", 6)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = TokenizersBackend(tokenizer_object=words, pad_token="[PAD]", model_input_names=names)
    model = tiny_model(FAMILIES[0], "AutoModelForSequenceClassification")
    single = tokenizer(["a b", "a"], padding=True, return_tensors="pt")
    assert single.keys() == set(names)
    assert model(**single).logits.shape == (2, 2)
    with pytest.raises(ValueError, match="they would be lost"):
        model(**tokenizer("a", "b", return_tensors="pt"))
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(tmp_path)
    pair = AutoTokenizer.from_pretrained(tmp_path)("a", "b", return_tensors="pt")
    assert torch.equal(model(**pair).logits, model(torch.tensor([[4, 6, 5, 6]])).logits)


@over_heads(*TEXT_HEADS)
def test_what_generic_code_passes_is_taken(family, auto_class):
    model = tiny_model(family, auto_class)
    expected = first_output(model, IDS)
    is_decoder = model.config.is_decoder
    passed = {
        "use_cache": False,
        "cache_position": torch.arange(11),
        "output_router_logits": False,
        "num_items_in_batch": None,
        "output_attentions": None,
        "tokenizer": None,
        "token_type_ids": None,
        "cu_seq_lens_q": None,
        "is_causal": is_decoder,
        "past_key_values": None,
    }
    with warns_of_the_old_cache_name():
        assert torch.equal(first_output(model, IDS, **passed), expected)
    with pytest.raises(TypeError, match=r"unknown arguments \['atention_mask', 'input_embeds'\]"):
        model(IDS, atention_mask=MASK, input_embeds=None)
    with pytest.raises(ValueError, match=f"load the model with is_decoder={not is_decoder}"):
        model(IDS, is_causal=not is_decoder)


@over_families
def test_embeddings_of_another_width_are_refused(family):
    for width in (1, 23):
        with pytest.raises(ValueError, match=rf"hidden_size=24\], got \[2, 11, {width}\]"):
            tiny_model(family)(inputs_embeds=torch.rand(2, 11, width))
    with pytest.raises(ValueError, match=r"input_ids must be integers, got torch\.float32"):
        tiny_model(family)(input_ids=IDS.float())


@over_causal_families
def test_a_cache_of_another_kind_is_refused(family):
    model = tiny_model(family, "AutoModelForCausalLM")
    cache = model(IDS, use_cache=True).cache
    with pytest.raises(ValueError, match="got tuple"):
        model(IDS, cache=((torch.rand(1), torch.rand(1)),))
    with pytest.raises(ValueError, match=r"pass cache\.self_attention_cache"):
        model(IDS, cache=EncoderDecoderCache(DynamicCache(), DynamicCache()))
    with pytest.raises(ValueError, match="Both `past_key_values` and `cache` are set"):
        model(IDS, cache=cache, past_key_values=cache)
    other = next(f for f in FAMILIES if f.causal and f.constant_state is not family.constant_state)
    with pytest.raises(ValueError, match="the cache must hold the layers"):
        model(IDS, cache=tiny_model(other, is_decoder=True)(IDS, use_cache=True).cache)


@over_heads(
    "AutoModelForSequenceClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModelForImageClassification",
)
def test_losses_of_rows_can_be_shares_of_a_larger_batch(family, auto_class):
    options = {"num_channels": 1} if "Image" in auto_class else {}
    inputs = {"pixel_values": torch.rand(2, 1, 3, 3, dtype=torch.float64)} if options else {"input_ids": IDS}
    labels = {"labels": torch.tensor([0, 1])}
    if "Choice" in auto_class:
        inputs = {"input_ids": IDS[:, None].expand(-1, 3, -1) + torch.arange(3)[:, None]}
    if "Question" in auto_class:
        labels = {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    if family.model_type == "kernel_transformer":
        options |= {"feature_map": "glu", "orthogonality_penalty": 0.1}
    model = tiny_model(family, auto_class, **options)
    mean, share = model(**inputs, **labels).loss, model(**inputs, **labels, num_items_in_batch=torch.tensor(8)).loss
    assert_close("loss", share, mean * 2 / 8)


def test_a_decoder_without_layers_keeps_no_cache():
    for family in (family for family in FAMILIES if family.causal and not family.config_class.has_memory):
        config = tiny_config(family, num_hidden_layers=0, is_decoder=True, use_cache=False)
        model = family.model_class("AutoModel")(config).eval()
        assert model(IDS).last_hidden_state.shape == (2, 11, 24)
        with pytest.raises(ValueError, match="num_hidden_layers=0: pass use_cache=False"):
            model(IDS, use_cache=True)
