"""Tiny models of every family and option, for all tests that run over the registry."""

import pytest
import torch

import hf_effattn
from hf_effattn.families import Family


SIZES = {
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "max_position_embeddings": 80,
    "hidden_dropout_prob": 0.0,
}

#: Sizes that a family has beside them.
FAMILY_SIZES: dict[str, dict] = {"luna": {"memory_size": 5}, "convluna": {"memory_size": 5}}
FAMILY_SIZES["memory_transformer"] = {"memory_size": 3}

#: Options under which a family has to keep every promise, beside its defaults.
OPTIONS: dict[str, list[dict]] = {
    "simpletron": [
        {"use_output_projection": True, "attention_scale": "sqrt_len_dim", "norm_position": "post"},
        {"norm_type": "scale_norm"},
        {"key_value_filter": "conv"},
        {"key_value_filter": "avg_pool", "filter_kernel_size": 5},
        {"cls_position": False, "block_skip": True, "embedding_norm": True, "last_norm": False},
    ],
    "kernel_transformer": [
        {"feature_map": "elu"},
        {"feature_map": "relu"},
        {"feature_map": "softplus", "normalizer_eps": 0.0},
        {"feature_map": "favor", "num_features": 11},
        {"feature_map": "linear", "num_features": 5},
        {"feature_map": "ffn", "num_kernel_layers": 2},
        {"feature_map": "glu", "num_kernel_layers": 3, "num_features": 10, "orthogonality_penalty": 0.1},
        {"feature_map": "low_rank_glu", "num_kernel_layers": 2, "kernel_rank": 3},
        {"feature_map": "spectral", "num_features": 9, "num_mixtures": 2},
        {"key_value_filter": "conv", "filter_kernel_size": 3},
        {"key_value_filter": "max_pool", "feature_map": "elu"},
        {"norm_position": "post", "embedding_norm": False, "last_norm": True, "kernel_init": "uniform"},
    ],
    "luna": [
        {"norm_position": "pre", "shared_projections": ["key", "value"], "pack_temperature": "learned"},
        {"memory_size": 1, "use_value_projection": False, "shared_projections": []},
        {"memory_size": 1, "norm_type": "rms_norm"},
        {"cls_position": False, "block_skip": True, "embedding_norm": False, "last_norm": True},
    ],
    "convluna": [
        {"filter_stride": 3},
        {"memory_filter": "max_pool", "filter_stride": 2, "norm_position": "pre"},
        {"memory_filter": "avg_pool", "use_value_projection": True, "shared_projections": []},
        {"memory_filter": "none", "unpack_temperature": "unit"},
        {"memory_size": 1, "unpack_temperature": "unit", "filter_kernel_size": 2},
        {"memory_filter": "max_pool", "filter_windows": "full", "embedding_norm": False, "last_norm": True},
        {"filter_stride": 3, "filter_windows": "full", "norm_position": "pre", "block_skip": True},
    ],
    "memory_transformer": [
        {"norm_position": "post"},
        {"segment_length": 5, "memory_filter": "conv"},
        {"segment_length": 6, "memory_filter": "max_pool", "filter_stride": 2},
        {"segment_length": 1, "norm_position": "post"},
        {"segment_length": 40, "memory_filter": "avg_pool", "filter_kernel_size": 3},
        {"segment_length": 6, "memory_filter": "conv", "filter_windows": "full", "last_norm": False},
        {"cls_position": False, "block_skip": True, "norm_position": "post", "last_norm": True},
    ],
    "vanilla_transformer": [
        {"norm_position": "post", "norm_type": "rms_norm"},
        {"key_value_filter": "conv"},
        {"key_value_filter": "max_pool", "filter_kernel_size": 2},
        {"cls_position": False, "block_skip": True, "norm_position": "post", "embedding_norm": False},
    ],
}

FAMILIES = hf_effattn.list_families()
VARIANTS = [(family, options) for family in FAMILIES for options in [{}, *OPTIONS.get(family.model_type, [])]]
VARIANT_NAMES = ["-".join([f.model_type, *map(str, o.values())]) for f, o in VARIANTS]
CAUSAL_FAMILIES = [family for family in FAMILIES if family.causal]
MEMORY_FAMILIES = [family for family in FAMILIES if family.config_class.has_memory]


def over_variants(test):
    """Run a test on ``family, options`` for every family and option."""
    return pytest.mark.parametrize(("family", "options"), VARIANTS, ids=VARIANT_NAMES)(test)


def over_causal_variants(test):
    """The same for the families that can be decoders."""
    chosen = [(name, variant) for name, variant in zip(VARIANT_NAMES, VARIANTS, strict=True) if variant[0].causal]
    names, variants = zip(*chosen, strict=True)
    return pytest.mark.parametrize(("family", "options"), variants, ids=names)(test)


def over_directions(test):
    """Run a test on ``family, options, is_decoder``: every variant as an encoder, and as a decoder if it can be."""
    names, cases = [], []
    for name, (family, options) in zip(VARIANT_NAMES, VARIANTS, strict=True):
        for is_decoder in [False, True] if family.causal else [False]:
            names.append(f"{name}-{'causal' if is_decoder else 'bidirectional'}")
            cases.append((family, options, is_decoder))
    return pytest.mark.parametrize(("family", "options", "is_decoder"), cases, ids=names)(test)


def over_families(test):
    """Run a test on every ``family``."""
    return pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)(test)


def over_causal_families(test):
    """Run a test on every ``family`` that can be a decoder."""
    return pytest.mark.parametrize("family", CAUSAL_FAMILIES, ids=lambda family: family.model_type)(test)


def over_heads(*auto_classes):
    """Run a test on ``family, auto_class`` for every family and those of the heads that it has."""
    cases = [(family, auto) for family in FAMILIES for auto in auto_classes if auto in family.class_names]
    names = [f"{family.model_type}-{auto}" for family, auto in cases]
    return pytest.mark.parametrize(("family", "auto_class"), cases, ids=names)


def tiny_config(family: Family, **options):
    return family.config_class(**SIZES | FAMILY_SIZES.get(family.model_type, {}) | options)


def tiny_model(family: Family, auto_class: str = "AutoModel", dtype=torch.float64, **options):
    """A model in eval mode whose weights are large enough for every part of it to matter."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        model = family.model_class(auto_class)(tiny_config(family, **options)).to(dtype).eval()
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=torch.float64).to(dtype)
    return model


def random_ids(batch: int, length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(4, SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))


def padded(rows: list[torch.Tensor], side: str, pad_id: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of different lengths as one batch, and its attention mask."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids[i, where] = row
        mask[i, where] = 1
    return ids, mask
