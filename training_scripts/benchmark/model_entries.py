"""The whole models of the benchmark: ours, and those of transformers, at matched sizes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForSequenceClassification, PreTrainedModel

import hf_effattn  # noqa: F401, registers our models
from hf_effattn.training.matched_configs import LANDMARKS, WINDOW, Size, matched_config

from .candidate import OURS, PEER


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


def _entry(name: str, attention: str, model_type: str, origin: str, **options: Any) -> ModelEntry:
    def build(size: Size) -> PreTrainedModel:
        config = matched_config(model_type, size, num_labels=2, **options)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
        return model

    return ModelEntry(name, attention, build, origin)


#: The softmax baseline on our own skeleton, against which every ratio is taken.
BASELINE = "vanilla_transformer"

ENTRIES = (
    _entry(BASELINE, "softmax, torch SDPA", "vanilla_transformer", OURS),
    _entry("simpletron", "Q (KᵀV) / √N", "simpletron", OURS),
    _entry("kernel_transformer, elu", "φ(Q) (φ(K)ᵀV), normalised", "kernel_transformer", OURS, feature_map="elu"),
    _entry("kernel_transformer, glu", "the same, φ trained", "kernel_transformer", OURS, feature_map="glu"),
    _entry("luna", "softmax over a memory of 256 cells", "luna", OURS),
    _entry("convluna", "the same, packing filtered", "convluna", OURS),
    _entry("memory_transformer", "softmax with 16 memory tokens", "memory_transformer", OURS),
    _entry("transformers BERT", "softmax, torch SDPA", "bert", PEER, attn_implementation="sdpa"),
    _entry("transformers BigBird", "softmax over blocks", "big_bird", PEER),
    _entry("transformers Longformer", f"softmax in a window of {WINDOW}", "longformer", PEER),
    _entry("transformers Nystromformer", f"Nyström softmax, {LANDMARKS} landmarks", "nystromformer", PEER),
    _entry("transformers FNet", "Fourier transform", "fnet", PEER),
    _entry("transformers Reformer", "softmax in windows and hashed buckets", "reformer", PEER),
    _entry("transformers Funnel", "softmax, pooled once", "funnel", PEER),
)
