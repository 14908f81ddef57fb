"""The functions that the candidates claim to compute, written to be read and evaluated in float64.

Shapes are ``[batch, heads, length, dim]``. They are written from the papers' equations and the libraries'
documented constants, quadratic where that is plainer, and share no code with the candidates.
"""

import math

import torch

from hf_effattn.models.ops_reference import reference_linear_attention, reference_softmax_attention

from .problem import ELU, GLU, Problem


Tensor = torch.Tensor


def our_features(problem: Problem, x: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    """``elu(x) + 1``; ``softplus(x W) * sigmoid(x G)``; or ``x``."""
    if problem.feature_map == ELU:
        return torch.where(x > 0, x + 1, x.clamp(max=0).exp())
    if problem.feature_map == GLU:
        weight, gate = parameters
        return torch.log1p((x @ weight).exp()) / (1 + (-x @ gate).exp())
    return x


def linear_attention_oracle(problem: Problem, q: Tensor, k: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
    """Linear attention of mapped queries and keys, token by token; SimpleTRON's scale without a denominator."""
    return reference_linear_attention(
        our_features(problem, q, parameters),
        our_features(problem, k, parameters),
        v,
        causal=problem.causal,
        normalize=problem.normalize,
        scale=simpletron_scale(problem),
    )[0]


def simpletron_scale(problem: Problem) -> float | None:
    """``1 / sqrt(N)`` for SimpleTRON, nothing where there is a denominator."""
    return None if problem.normalize else problem.length**-0.5


def softmax_oracle(problem: Problem, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(Q K^T / sqrt(d)) V``."""
    return reference_softmax_attention(q, k, v, causal=problem.causal)


def favor_oracle(problem: Problem, projection: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FAVOR+ with performer-pytorch's stabilisers: 1e-4 on every feature, and in the causal form 1e-6 on every sum.

    The largest exponent is taken per query, and over all keys of a head.
    """
    scale: float = projection.shape[0] ** -0.5

    def exponents(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x * problem.dim**-0.25
        return x @ projection.double().T, x.square().sum(-1, keepdim=True) / 2

    query_dots, query_norms = exponents(q)
    key_dots, key_norms = exponents(k)
    query_features = scale * ((query_dots - query_norms - query_dots.detach().amax(-1, keepdim=True)).exp() + 1e-4)
    key_features = scale * ((key_dots - key_norms - key_dots.detach().amax((-1, -2), keepdim=True)).exp() + 1e-4)
    weights = query_features @ key_features.transpose(-1, -2)
    if not problem.causal:
        return weights @ v / weights.sum(-1, keepdim=True)
    weights = weights.tril()
    return weights @ v / (weights.sum(-1, keepdim=True) + 1e-6 * query_features.sum(-1, keepdim=True))


def softmax_features_oracle(problem: Problem, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Efficient attention (Shen et al. 2018): ``softmax_d(Q) softmax_N(K)^T V / sqrt(d)``."""
    return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v) / math.sqrt(problem.dim)


def bucketed_causal_oracle(bucket: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The causal form of linear-attention-transformer: a query reads only the buckets before its own.

    Weights are ``softmax_d(q) . exp(k) / sqrt(d)``, the denominator is at least 1e-3.
    """
    length, dim = q.shape[-2:]
    start_of_bucket = torch.arange(length) // bucket * bucket
    visible = torch.arange(length)[None, :] < start_of_bucket[:, None]
    weights = (q.softmax(-1) @ k.exp().transpose(-1, -2) / math.sqrt(dim)).masked_fill(~visible, 0.0)
    return weights @ v / weights.sum(-1, keepdim=True).clamp(min=1e-3)


def linformer_oracle(q: Tensor, k: Tensor, v: Tensor, key_projection: Tensor, value_projection: Tensor) -> Tensor:
    """``softmax(Q (E^T K)^T / sqrt(d)) F^T V`` with `E` and `F` ``[N, k]`` (Wang et al. 2020)."""
    keys, values = key_projection.T @ k, value_projection.T @ v
    return (q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ values


def nystrom_oracle(landmarks: int, iterations: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Nyströmformer (Xiong et al. 2021): landmarks are means of segments, the inverse is iterated (eq. 11)."""
    q = q / math.sqrt(q.shape[-1])
    q_means = torch.stack([segment.mean(-2) for segment in q.chunk(landmarks, -2)], -2)
    k_means = torch.stack([segment.mean(-2) for segment in k.chunk(landmarks, -2)], -2)
    kernel = (q_means @ k_means.transpose(-1, -2)).softmax(-1)
    # The norms that start the iteration are the largest over all heads, as in the paper's code.
    inverse = kernel.transpose(-1, -2) / (kernel.sum(-1).max() * kernel.sum(-2).max())
    eye = torch.eye(landmarks, dtype=q.dtype)
    for _ in range(iterations):
        product = kernel @ inverse
        inverse = inverse @ (13 * eye - product @ (15 * eye - product @ (7 * eye - product))) / 4
    left = (q @ k_means.transpose(-1, -2)).softmax(-1)
    right = (q_means @ k.transpose(-1, -2)).softmax(-1)
    mixed: Tensor = left @ inverse @ (right @ v)
    return mixed


def shared_query_key_oracle(problem: Problem, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Reformer's attention if hashing finds every key: keys are unit queries, oneself is read only if alone."""
    keys: Tensor = q / q.norm(dim=-1, keepdim=True)
    scores = q @ keys.transpose(-1, -2) / math.sqrt(problem.dim)
    oneself = torch.eye(problem.length, dtype=torch.bool)
    scores = scores.masked_fill(oneself, -5e4)
    if problem.causal:
        scores = scores.masked_fill(~torch.ones_like(oneself).tril(), -math.inf)
    return scores.softmax(-1) @ v
