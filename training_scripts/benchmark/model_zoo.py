"""The whole models of the benchmark: ours, and those of transformers, at matched sizes.

Dropout is off everywhere: it takes torch's fused softmax attention out of service on CPU, and costs every model the
same beside that.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

import hf_effattn  # noqa: F401, registers our models

from .candidate import OURS, PEER


VOCABULARY = 260
WINDOW = 256


@dataclass(frozen=True)
class Size:
    """What all models have in common."""

    length: int
    hidden: int
    layers: int
    heads: int
    intermediate: int

    def fields(self) -> dict[str, Any]:
        """The names that most configs of transformers give to it."""
        return {
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.length,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "pad_token_id": 0,
            "num_labels": 2,
        }


@dataclass(frozen=True)
class ModelEntry:
    """A model of the benchmark.

    Attributes:
        name: what tables call it.
        attention: what its attention is.
        build: makes it for a size.
        origin: `OURS` or `PEER`.
    """

    name: str
    attention: str
    build: Callable[[Size], PreTrainedModel]
    origin: str


def _build(model_type: str, size: Size, attn_implementation: str | None = None, **options: Any) -> PreTrainedModel:
    # transformers writes into the lists that a config is given.
    config = AutoConfig.for_model(model_type, **size.fields() | copy.deepcopy(options))
    extra = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    return AutoModelForSequenceClassification.from_config(config, **extra)


def _ours(name: str, attention: str, model_type: str, **options: Any) -> ModelEntry:
    return ModelEntry(name, attention, lambda size: _build(model_type, size, **options), OURS)


def _bert(size: Size) -> PreTrainedModel:
    return _build("bert", size, attn_implementation="sdpa")


def _big_bird(size: Size) -> PreTrainedModel:
    return _build("big_bird", size, attention_type="block_sparse", block_size=min(64, size.length // 16))


def _longformer(size: Size) -> PreTrainedModel:
    # Its positions start behind the id of padding.
    positions = size.length + 1
    return _build("longformer", size, attention_window=min(WINDOW, size.length), max_position_embeddings=positions)


def _nystromformer(size: Size) -> PreTrainedModel:
    landmarks = min(64, size.length // 4)
    return _build("nystromformer", size, num_landmarks=landmarks, segment_means_seq_len=size.length)


def _fnet(size: Size) -> PreTrainedModel:
    return _build("fnet", size)


def _reformer(size: Size) -> PreTrainedModel:
    rows = 2 ** (size.length.bit_length() // 2)
    return _build(
        "reformer",
        size,
        attn_layers=["local", "lsh"] * (size.layers // 2),
        attention_head_size=size.hidden // size.heads,
        feed_forward_size=size.intermediate,
        axial_pos_shape=(rows, size.length // rows),
        axial_pos_embds_dim=(size.hidden // 4, size.hidden - size.hidden // 4),
        local_attention_probs_dropout_prob=0.0,
        hash_seed=0,
        is_decoder=False,
    )


def _funnel(size: Size) -> PreTrainedModel:
    config = AutoConfig.for_model(
        "funnel",
        vocab_size=VOCABULARY,
        block_sizes=[size.layers // 2, size.layers - size.layers // 2],
        d_model=size.hidden,
        n_head=size.heads,
        d_head=size.hidden // size.heads,
        d_inner=size.intermediate,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=0,
        num_labels=2,
    )
    return AutoModelForSequenceClassification.from_config(config)


#: The softmax baseline on our own skeleton, against which every ratio is taken.
BASELINE = "vanilla_transformer"

ZOO = (
    _ours(BASELINE, "softmax, torch SDPA", "vanilla_transformer"),
    _ours("simpletron", "Q (KᵀV) / √N", "simpletron"),
    _ours("kernel_transformer, elu", "φ(Q) (φ(K)ᵀV), normalised", "kernel_transformer", feature_map="elu"),
    _ours("kernel_transformer, glu", "the same, φ trained", "kernel_transformer", feature_map="glu"),
    _ours("luna", "softmax over a memory of 256 cells", "luna"),
    _ours("convluna", "the same, packing filtered", "convluna"),
    _ours("memory_transformer", "softmax with 16 memory tokens", "memory_transformer"),
    ModelEntry("transformers BERT", "softmax, torch SDPA", _bert, PEER),
    ModelEntry("transformers BigBird", "softmax over blocks", _big_bird, PEER),
    ModelEntry("transformers Longformer", f"softmax in a window of {WINDOW}", _longformer, PEER),
    ModelEntry("transformers Nystromformer", "Nyström softmax, 64 landmarks", _nystromformer, PEER),
    ModelEntry("transformers FNet", "Fourier transform", _fnet, PEER),
    ModelEntry("transformers Reformer", "softmax in windows and hashed buckets", _reformer, PEER),
    ModelEntry("transformers Funnel", "softmax, pooled once", _funnel, PEER),
)
