"""The byte tokenizer: 256 bytes and four special tokens. It loads without custom code."""

from functools import cache
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BatchEncoding, PreTrainedTokenizerBase, TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode


#: Special tokens in the order of their ids, which start at 0. The ids of the bytes 0 to 255 follow.
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
#: The default `vocab_size` of every config.
VOCAB_SIZE = len(SPECIAL_TOKENS) + 256


def byte_tokenizer(model_max_length: int, padding_side: Literal["left", "right"] = "right") -> TokenizersBackend:
    """Make a tokenizer whose tokens are the UTF-8 bytes of the text, with ``[CLS]`` in front.

    - A pair becomes ``[CLS] first [SEP] second``. Generation starts from ``[CLS]`` and ends with ``[SEP]``.
    - Encoding and decoding keep every text, NUL included. A text that spells a special token, such as ``[MASK]``, is
      read as that token, as with every tokenizer of transformers. `encode_data` and ``split_special_tokens=True``
      prevent that.
    - ``word_ids()`` counts words as GPT-2's tokenizer does: letters, numbers or signs, with the space before them.
    - With ``aggregation_strategy="simple"``, the token classification pipeline returns pieces of the text as ``word``.
      The other strategies split words at spaces only, and decode them twice. For text beyond ASCII, read
      ``text[start:end]`` instead.

    Args:
        model_max_length: the length that ``truncation=True`` cuts to, special tokens included. It should be the
            `max_position_embeddings` of the model.
        padding_side: ``"left"`` for a decoder that generates after a batch of texts.
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
    # ByteLevel writes every byte as one printable character. The ids follow the order of the bytes.
    characters = bytes_to_unicode()
    return {token: i for i, token in enumerate([*SPECIAL_TOKENS, *(characters[byte] for byte in range(256))])}


def is_byte_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens of `tokenizer` are bytes, as those of `byte_tokenizer` are."""
    return tokenizer.get_vocab() == _vocabulary()


def encode_data(tokenizer: PreTrainedTokenizerBase, *texts: list[str], **options: Any) -> BatchEncoding:
    """Call ``tokenizer(*texts, **options)``; a byte tokenizer then never reads a part of the text as a special token.

    Data may hold any bytes. Without this, the five bytes ``[PAD]`` would be one token that models ignore. Other
    tokenizers follow their own configuration.
    """
    if is_byte_tokenizer(tokenizer):
        options["split_special_tokens"] = True
    encoded: BatchEncoding = tokenizer(*texts, **options)
    return encoded
