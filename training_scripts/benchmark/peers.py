"""Other libraries' attention, without their projections: queries, keys and values are handed in as they are.

Each is imported when it is prepared, so that one that is not installed is listed and does not stop the others.
"""

import contextlib
import importlib
import io
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .candidate import Candidate, Prepared
from .oracles import (
    bucketed_causal_oracle,
    favor_oracle,
    linear_attention_oracle,
    linformer_oracle,
    nystrom_oracle,
    shared_query_key_oracle,
    softmax_features_oracle,
)
from .ours import COMPUTES
from .problem import ELU, FORWARD, FUSED, MERGED, SHARED, TOKENS, TRAINING, Problem


BUCKET = 64
HASHES = 4
LANDMARKS = 64
PINV_ITERATIONS = 6
LINFORMER_RANK = 256


class PassThrough(nn.Module):
    """Stands where a library projects: hands on what it gets, or the tensor put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.tensor: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor put into it, else `x`."""
        return x if self.tensor is None else self.tensor


def elu_features(x: torch.Tensor) -> torch.Tensor:
    """``elu(x) + 1``, as every repository writes it."""
    return functional.elu(x) + 1


def _einsum(problem: Problem) -> Prepared:
    def bidirectional(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k = elu_features(q), elu_features(k)
        state = torch.einsum("bhnf,bhnd->bhfd", k, v)
        norm = 1 / (torch.einsum("bhnf,bhf->bhn", q, k.sum(-2)) + 1e-6)
        return torch.einsum("bhnf,bhfd,bhn->bhnd", q, state, norm)

    def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k = elu_features(q), elu_features(k)
        states = torch.einsum("bhnf,bhnd->bhnfd", k, v).cumsum(2)
        norm = 1 / (torch.einsum("bhnf,bhnf->bhn", q, k.cumsum(2)) + 1e-6)
        return torch.einsum("bhnf,bhnfd,bhn->bhnd", q, states, norm)

    return Prepared(causal if problem.causal else bidirectional, partial(linear_attention_oracle, problem))


def _performer(problem: Problem) -> Prepared:
    performer = importlib.import_module("performer_pytorch")
    # It prints whenever it does without its CUDA kernel.
    with contextlib.redirect_stdout(io.StringIO()):
        attention = performer.FastAttention(dim_heads=problem.dim, nb_features=256, causal=problem.causal)
    return Prepared(attention, partial(favor_oracle, problem, attention.projection_matrix))


def _linear_attention_transformer(problem: Problem) -> Prepared:
    name = "linear_attention_transformer.linear_attention_transformer"
    library = importlib.import_module(name)
    if problem.causal:
        run = partial(library.causal_linear_attn, bucket_size=BUCKET)
        return Prepared(run, partial(bucketed_causal_oracle, BUCKET))
    return Prepared(library.linear_attn, partial(softmax_features_oracle, problem))


def _linformer(problem: Problem) -> Prepared:
    linformer = importlib.import_module("linformer")
    attention: Any = linformer.LinformerSelfAttention(
        dim=problem.heads * problem.dim, seq_len=problem.length, k=LINFORMER_RANK, heads=problem.heads
    )
    attention.to_q, attention.to_out = nn.Identity(), nn.Identity()
    attention.to_k, attention.to_v = PassThrough(), PassThrough()

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        attention.to_k.tensor, attention.to_v.tensor = k, v
        output: torch.Tensor = attention(q)
        return output

    return Prepared(run, linformer_oracle, (attention.proj_k, attention.proj_v))


def _nystrom(problem: Problem) -> Prepared:
    nystrom = importlib.import_module("nystrom_attention")
    attention: Any = nystrom.NystromAttention(
        dim=problem.heads * problem.dim,
        dim_head=problem.dim,
        heads=problem.heads,
        num_landmarks=LANDMARKS,
        pinv_iterations=PINV_ITERATIONS,
        residual=False,
    )
    attention.to_qkv, attention.to_out = nn.Identity(), nn.Identity()
    return Prepared(attention, partial(nystrom_oracle, LANDMARKS, PINV_ITERATIONS))


def _reformer(problem: Problem, hashes: int = HASHES, bucket: int = BUCKET) -> Prepared:
    reformer = importlib.import_module("reformer_pytorch")
    attention = reformer.LSHAttention(bucket_size=bucket, n_hashes=hashes, causal=problem.causal).eval()

    def run(qk: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = attention(qk, v)[0]
        return output

    return Prepared(run, partial(shared_query_key_oracle, problem))


def _reformer_that_sees_every_key(problem: Problem) -> Prepared:
    return _reformer(problem, hashes=1, bucket=problem.length // 2)


def _fast_transformers(problem: Problem) -> Prepared:
    attention_module = importlib.import_module("fast_transformers.attention")
    masking = importlib.import_module("fast_transformers.masking")
    lengths = masking.LengthMask(torch.full((problem.batch,), problem.length))
    if problem.causal:
        attention = attention_module.CausalLinearAttention(problem.dim)
        mask = masking.TriangularCausalMask(problem.length)
    else:
        attention = attention_module.LinearAttention(problem.dim)
        mask = masking.FullMask(problem.length)

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = attention(q, k, v, mask, lengths, lengths)
        return output

    return Prepared(run, partial(linear_attention_oracle, problem))


def _flash_linear_attention(problem: Problem) -> Prepared:
    naive = importlib.import_module("fla.ops.linear_attn.naive")

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        features = elu_features(q), elu_features(k)
        output: torch.Tensor = naive.naive_chunk_linear_attn(*features, v, scale=1.0, normalize=True)
        return output

    return Prepared(run, partial(linear_attention_oracle, problem))


def linear_peers(causal: bool) -> list[Candidate]:
    """Peers that compute our own function: linear attention with elu + 1, normalised."""
    fast_transformers = Candidate(
        "pytorch-fast-transformers",
        COMPUTES[ELU],
        _fast_transformers,
        layout=TOKENS,
        package="pytorch-fast-transformers",
        install="pip install 'setuptools<81' wheel && pip install --no-build-isolation pytorch-fast-transformers",
    )
    einsum = Candidate("torch einsum", COMPUTES[ELU], _einsum)
    if not causal:
        return [einsum, fast_transformers]
    memory = "keeps a state for every token"
    return [
        Candidate("torch einsum", COMPUTES[ELU], _einsum, longest={FORWARD: 4096, TRAINING: 4096}, reason=memory),
        fast_transformers,
        Candidate(
            "flash-linear-attention, naive chunks",
            COMPUTES[ELU],
            _flash_linear_attention,
            layout=TOKENS,
            package="flash-linear-attention",
        ),
    ]


def other_peers(causal: bool) -> list[Candidate]:
    """Peers that compute another function, which replaces softmax attention all the same."""
    performer = Candidate(
        "performer-pytorch",
        "FAVOR+, 256 random features",
        _performer,
        package="performer-pytorch",
        longest={FORWARD: 1024, TRAINING: 1024} if causal else {},
        reason="keeps a state for every token",
    )
    reformer = Candidate(
        "reformer-pytorch",
        f"softmax over hashed buckets of {BUCKET}, {HASHES} rounds, keys are queries",
        _reformer,
        layout=SHARED,
        package="reformer-pytorch",
        check_setup=_reformer_that_sees_every_key,
        check_note="one round of two buckets, where every key is seen",
    )
    buckets = f"softmax_d(Q) exp(K)ᵀ, normalised, blind in its own bucket of {BUCKET}"
    shen = Candidate(
        "linear-attention-transformer",
        buckets if causal else "softmax_d(Q) softmax_N(K)ᵀ V / √d",
        _linear_attention_transformer,
        package="linear-attention-transformer",
    )
    if causal:
        return [performer, shen, reformer]
    linformer = Candidate(
        "linformer",
        f"softmax over {LINFORMER_RANK} projected positions",
        _linformer,
        layout=MERGED,
        package="linformer",
    )
    nystrom = Candidate(
        "nystrom-attention",
        f"Nyström softmax, {LANDMARKS} landmarks",
        _nystrom,
        layout=FUSED,
        package="nystrom-attention",
    )
    return [performer, shen, reformer, linformer, nystrom]
