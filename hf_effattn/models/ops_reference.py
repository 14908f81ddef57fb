"""The oracles: every attention of the library written as its equation, to be checked by eye.

Quadratic or looped, any dtype including float64, no chunking and no fusing. The fast paths are tested against
these functions, forward and backward; ``output_attentions=True`` and ``attention_backend="reference"`` run them.

Shapes, here and in every operator of the library (`B` batch, `H` heads, `N` queries, `M` keys):

- query, key: ``[B, H, N, F]`` and ``[B, H, M, F]``, already mapped where a feature map is in use;
- value: ``[B, H, M, D]``;
- key_mask: ``[B, M]`` bool, True for a real token.
"""

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 input, float32 for everything else: the dtype of states, denominators and softmax."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def denominator(total: torch.Tensor, eps: float) -> torch.Tensor:
    """``total + eps``, or 1 where that is 0: a query that sees no key has a numerator of 0, and reads zeros."""
    total = total + eps
    return total if eps > 0 else total.masked_fill(total == 0, 1.0)


def visible_keys(query: torch.Tensor, key: torch.Tensor, key_mask: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """Which key every query may read, ``[B or 1, 1, N or 1, M]`` bool.

    With ``causal`` the queries are the last `N` of the `M` positions, as they are while decoding with a cache.
    """
    num_queries, num_keys = query.shape[-2], key.shape[-2]
    visible = torch.ones(1, 1, 1, num_keys, dtype=torch.bool, device=query.device)
    if causal:
        query_position = torch.arange(num_keys - num_queries, num_keys, device=query.device)
        key_position = torch.arange(num_keys, device=query.device)
        visible = (key_position[None, :] <= query_position[:, None])[None, None]
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]
    return visible


def linear_attention_map(
    query: torch.Tensor,
    key: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    causal: bool = False,
    normalize: bool = True,
    scale: float | torch.Tensor | None = None,
    eps: float = 1e-6,
) -> torch.Tensor:
    """The ``[B, H, N, M]`` matrix `A` that linear attention implies, so that its output is ``A @ value``.

    ``A_nm = scale * q_n . k_m``, with ``normalize`` divided by ``sum_m q_n . k_m + eps``; keys that are masked or,
    with ``causal``, lie in the future weigh zero. Costs O(N M) time and memory.
    """
    dtype = accumulation_dtype(query.dtype)
    weights = query.to(dtype) @ key.to(dtype).transpose(-1, -2)
    weights = weights.masked_fill(~visible_keys(query, key, key_mask, causal), 0.0)
    if normalize:
        weights = weights / denominator(weights.sum(-1, keepdim=True), eps)
    return weights if scale is None else weights * scale


def reference_linear_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    causal: bool = False,
    normalize: bool = True,
    scale: float | torch.Tensor | None = None,
    eps: float = 1e-6,
    initial_state: torch.Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear attention token by token; returns the output ``[B, H, N, D]`` and the final state.

    For every real token `m`, in order: ``S <- S + k_m v_m^T`` and ``z <- z + k_m``. A query reads
    ``q_n S`` and, with ``normalize``, divides by ``q_n . z + eps``; `scale` multiplies the result. A causal query
    reads the state right after its own token, a bidirectional one reads the state after the last token.

    The state is ``[B, H, F, D]``, or ``[B, H, F, D + 1]`` with ``normalize``: `S`, then `z` as one more column
    (`z` is what the column of a constant value 1 accumulates). `dropout_p` acts on the entries of `S`, as in
    SimpleTRON (arXiv 2111.15588, authors' code). See `hf_effattn.models.ops_linear.linear_attention`.
    """
    dtype = accumulation_dtype(query.dtype)
    q, k, v = (tensor.to(dtype) for tensor in (query, key, value))
    if normalize:
        v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    batch, heads, length, features = k.shape
    state = k.new_zeros(batch, heads, features, v.shape[-1]) if initial_state is None else initial_state.to(dtype)

    def read(q_n: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        out = q_n @ torch.dropout(memory, dropout_p, dropout_p > 0)
        return out[..., :-1] / denominator(out[..., -1:], eps) if normalize else out

    reads = []
    for m in range(length):
        update = k[:, :, m, :, None] * v[:, :, m, None, :]
        if key_mask is not None:
            update = update.masked_fill(~key_mask[:, m, None, None, None], 0.0)
        state = state + update
        if causal:
            reads.append(read(q[:, :, m : m + 1], state))
    output = torch.cat(reads, dim=-2) if causal else read(q, state)
    if scale is not None:
        output = output * scale
    return output.to(query.dtype), state


def reference_filter(
    tokens: torch.Tensor,
    kind: str,
    kernel_size: int,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    stride: int = 1,
    causal: bool = False,
    full_windows: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`KeyValueFilter` window by window, for ``[B, H, N, D]``; returns what it gives and which windows are real.

    In a row whose real tokens stand at ``first .. N - 1``, a window belongs to a token `t` and reads the real tokens
    among ``start .. start + kernel_size - 1``. `start` is ``t - (kernel_size - 1) // 2``; with ``causal``
    ``t - kernel_size + 1``; with ``stride > 1`` it is `t` itself, and only every `stride`-th token, counted from
    `first`, has a window. With ``full_windows`` it is `t` itself at any stride, and of the windows those are left out
    that end behind the last real token; but the first stays. ``"conv"`` sums them with `weight` ``[H, kernel_size]``,
    ``"max_pool"`` takes their greatest and ``"avg_pool"`` their mean, channel by channel.
    """
    batch, heads, length, _ = tokens.shape
    real = torch.ones(batch, length, dtype=torch.bool) if mask is None else mask
    count = -(-length // stride)
    if full_windows:
        count = max(1, (length - kernel_size) // stride + 1)
    output = tokens.new_zeros(batch, heads, count, tokens.shape[-1])
    valid = torch.zeros(batch, count, dtype=torch.bool)
    flush = stride > 1 or full_windows
    before = kernel_size - 1 if causal else 0 if flush else (kernel_size - 1) // 2
    for b in range(batch):
        first = int(real[b].int().argmax()) if flush else 0
        last = max((n for n in range(length) if real[b, n]), default=-1)
        for window, t in enumerate(range(first, length, stride)):
            if full_windows and window > 0 and t + kernel_size - 1 > last:
                break
            inside = [n for n in range(t - before, t - before + kernel_size) if 0 <= n < length and real[b, n]]
            valid[b, window] = real[b, t]
            if not real[b, t]:
                continue
            read = tokens[b, :, inside]
            if weight is not None:
                taps = weight[:, [n - t + before for n in inside]]
                output[b, :, window] = (taps[:, :, None] * read).sum(1)
            else:
                output[b, :, window] = read.amax(1) if kind == "max_pool" else read.mean(1)
    return output, valid


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


def reference_softmax_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """``softmax(scale * Q K^T) V`` with dropout on the weights, in O(N M). See `ops_softmax.softmax_attention`."""
    weights = softmax_attention_map(query, key, key_mask=key_mask, causal=causal, scale=scale)
    weights = torch.dropout(weights, dropout_p, dropout_p > 0)
    return (weights @ value.to(weights.dtype)).to(query.dtype)
