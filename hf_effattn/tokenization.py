"""The byte tokenizer: 256 bytes and four special tokens, made of parts that need no custom code to load."""

from functools import cache
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BatchEncoding, PreTrainedTokenizerBase, TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode


#: Special tokens in the order of their ids; the bytes 0 to 255 follow.
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
#: The default `vocab_size` of every config.
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256


def byte_tokenizer(model_max_length: int, padding_side: Literal["left", "right"] = "right") -> TokenizersBackend:
    """A tokenizer whose tokens are the UTF-8 bytes of the text, with ``[CLS]`` in front.

    A pair becomes ``[CLS] first [SEP] second``. ``[CLS]`` is also the token that generation starts from, and
    ``[SEP]`` the one that ends it. Every text, NUL included, survives encoding and decoding; one that spells a
    special token, such as ``[MASK]``, is read as that token unless `encode_data` or ``split_special_tokens=True`` is
    used, as with every tokenizer of transformers.

    ``word_ids()`` counts words as GPT-2's tokenizer does: letters, numbers or signs with the space before them.

    The token classification pipeline gives pieces of the text as ``word`` with ``aggregation_strategy="simple"``. The
    other strategies look for words by spaces alone, and decode them twice: beyond ASCII, read ``text[start:end]``.

    Args:
        model_max_length: where ``truncation=True`` cuts, special tokens included: `max_position_embeddings`.
        padding_side: ``"left"`` for a decoder that is to generate behind a batch of texts.
    """
    vocab = _vocabulary()
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A",
        pair="[CLS] $A [SEP] $B",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return TokenizersBackend(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        padding_side=padding_side,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        cls_token="[CLS]",
        bos_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
    )


@cache
def _vocabulary() -> dict[str, int]:
    # ByteLevel writes every byte as one printable character; the ids follow the order of the bytes themselves.
    characters = bytes_to_unicode()
    return {token: i for i, token in enumerate([*SPECIAL_TOKENS, *(characters[byte] for byte in range(256))])}


def is_byte_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens of `tokenizer` are bytes, as those of `byte_tokenizer` are."""
    return tokenizer.get_vocab() == _vocabulary()


def encode_data(tokenizer: PreTrainedTokenizerBase, *texts: list[str], **options: Any) -> BatchEncoding:
    """``tokenizer(*texts, **options)``, but texts that spell a special token are bytes where tokens are bytes.

    Data may hold any bytes: five of them, ``[PAD]``, would be one token that models leave out. Other tokenizers do as
    their own configuration says.
    """
    if is_byte_tokenizer(tokenizer):
        options["split_special_tokens"] = True
    encoded: BatchEncoding = tokenizer(*texts, **options)
    return encoded
