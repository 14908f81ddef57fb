"""Two tokenizers that load without custom code: of bytes, and of word pieces that are learned from texts."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BatchEncoding, PreTrainedTokenizerBase, TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode


#: Special tokens in the order of their ids, which start at 0. The ids of the bytes 0 to 255 follow.
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
#: The token for what the vocabulary of word pieces lacks.
UNKNOWN = "[UNK]"
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
    backend = Tokenizer(models.BPE(vocab=_vocabulary(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _with_special_tokens(backend, model_max_length, padding_side)


def word_piece_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 8000,
    model_max_length: int = 512,
    padding_side: Literal["left", "right"] = "right",
) -> TokenizersBackend:
    """Learn a tokenizer of word pieces, as BERT's: texts lose their case and accents, and rare words fall into pieces.

    A word piece stands for about four bytes of English, so inputs are a quarter as long as those of `byte_tokenizer`.
    A pair becomes ``[CLS] first [SEP] second``. What a text is written in that the training texts were not becomes
    ``[UNK]``. Case and spaces do not come back from decoding, so take the byte tokenizer for a model that generates.
    Pieces that are equally frequent are chosen by chance, so the same texts may give another tokenizer the next time:
    learn it once, and save it.

    Args:
        texts: what the pieces are learned from: the training split and nothing else.
        vocab_size: the most pieces, special tokens included; a model needs a `vocab_size` of at least as many.
        model_max_length: the length that ``truncation=True`` cuts to, special tokens included.
        padding_side: ``"left"`` for a decoder that generates after a batch of texts.

    Raises:
        ValueError: `vocab_size` has no room for the special tokens.
    """
    special = [*SPECIAL_TOKENS, UNKNOWN]
    if vocab_size <= len(special):
        raise ValueError(f"vocab_size={vocab_size} must be above {len(special)}, the number of special tokens")
    backend = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    )
    return _with_special_tokens(backend, model_max_length, padding_side, unk_token=UNKNOWN)


def _with_special_tokens(
    backend: Tokenizer, model_max_length: int, padding_side: Literal["left", "right"], **tokens: str
) -> TokenizersBackend:
    """A tokenizer of transformers whose texts begin with ``[CLS]``; `tokens` are its other special ones."""
    special = [*SPECIAL_TOKENS, *tokens.values()]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A",
        pair="[CLS] $A [SEP] $B",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
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
        **tokens,
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
