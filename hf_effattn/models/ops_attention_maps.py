"""The ``[B, H, N, M]`` matrices that attention multiplies the values with, for ``output_attentions=True``."""

import torch

from .base_call import LinearAttentionCall
from .base_operators import accumulation_dtype, denominator, visible_keys


def linear_attention_map(query: torch.Tensor, key: torch.Tensor, call: LinearAttentionCall) -> torch.Tensor:
    """The matrix `A` that linear attention implies, so that its output is ``A @ value``.

    ``A_nm = scale * q_n . k_m``, with ``normalize`` divided by ``sum_m q_n . k_m + eps``; keys that are masked or,
    with ``causal``, lie in the future weigh zero. An initial state, whose keys are summed, is no part of it; nor is
    dropout. Costs O(N M) time and memory.
    """
    if call.feature_map is not None:
        # By its method, because torch 2.11 does not trace the call of a frozen object.
        query, key = call.feature_map.__call__(query), call.feature_map.__call__(key)
    dtype = accumulation_dtype(query.dtype)
    weights = query.to(dtype) @ key.to(dtype).transpose(-1, -2)
    weights = weights.masked_fill(~visible_keys(query, key, call.key_mask, call.causal), 0.0)
    if call.normalize:
        weights = weights / denominator(weights.sum(-1, keepdim=True), call.eps)
    return weights if call.scale is None else weights * call.scale


def softmax_attention_map(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """``softmax(scale * Q K^T)`` over the visible keys, ``[B, H, N, M]``; a query that sees no key gets zeros.

    `scale` defaults to ``1 / sqrt(F)`` (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).
    """
    dtype = accumulation_dtype(query.dtype)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    visible = visible_keys(query, key, key_mask, causal)
    scores = scale * (query.to(dtype) @ key.to(dtype).transpose(-1, -2))
    weights = torch.softmax(scores.masked_fill(~visible, torch.finfo(dtype).min), dim=-1)
    return weights.masked_fill(~visible, 0.0)
