"""The oracles: every attention of the library written as its equation, to be checked by eye.

Quadratic or looped, any dtype including float64, no chunking and no fusing. The fast paths are tested against
these functions, forward and backward, so this file imports no other of the library, and shares no code with them.
``attention_backend="reference"`` runs them.

States, denominators and softmax are float32, or float64 for float64 input.

Shapes, here and in every operator of the library (`B` batch, `H` heads, `N` queries, `M` keys):

- query, key: ``[B, H, N, F]`` and ``[B, H, M, F]``, already mapped where a feature map is in use;
- value: ``[B, H, M, D]``;
- key_mask: ``[B, M]`` bool, True for a real token.
"""

import torch


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
    ``q_n S`` and, with ``normalize``, divides by ``q_n . z + eps`` (by 1 where that is 0); `scale` multiplies the
    result. A causal query
    reads the state right after its own token, a bidirectional one reads the state after the last token.

    The state is ``[B, H, F, D]``, or ``[B, H, F, D + 1]`` with ``normalize``: `S`, then `z` as one more column
    (`z` is what the column of a constant value 1 accumulates). `dropout_p` acts on the entries of `S`, as in
    SimpleTRON (arXiv 2111.15588, authors' code). See `hf_effattn.models.ops_linear.linear_attention`.
    """
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    q, k, v = (tensor.to(dtype) for tensor in (query, key, value))
    if normalize:
        v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    batch, heads, length, features = k.shape
    state = k.new_zeros(batch, heads, features, v.shape[-1]) if initial_state is None else initial_state.to(dtype)

    def read(q_n: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        out = q_n @ torch.dropout(state, dropout_p, dropout_p > 0)
        if not normalize:
            return out
        numerator, denominator = out[..., :-1], out[..., -1:] + eps
        # Without eps the denominator of a query that sees no key is 0, like its numerator: it reads zeros.
        return numerator / torch.where(denominator == 0, 1.0, denominator)

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
    """``softmax(scale * Q K^T) V`` with dropout on the weights, in O(N M). See `ops_softmax.softmax_attention`.

    A query reads the keys that are real and, with ``causal``, not behind its own position; the `N` queries are the
    last of the `M` positions. One that reads no key gets zeros.
    """
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    length, keys = query.shape[-2], key.shape[-2]
    # Query n stands at position keys - length + n.
    seen = torch.ones(1, 1, length, keys, dtype=torch.bool, device=query.device)
    if causal:
        seen = seen.tril(keys - length)
    if key_mask is not None:
        seen = seen & key_mask[:, None, None, :]
    scores = (query.to(dtype) @ key.to(dtype).transpose(-1, -2)) * (
        query.shape[-1] ** -0.5 if scale is None else scale
    )
    weights = torch.softmax(scores.masked_fill(~seen, torch.finfo(dtype).min), dim=-1)
    weights = torch.dropout(weights.masked_fill(~seen, 0.0), dropout_p, dropout_p > 0)
    return (weights @ value.to(dtype)).to(query.dtype)
