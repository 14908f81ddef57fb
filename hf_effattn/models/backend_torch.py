"""The ``torch`` backend of linear attention: plain tensor operations, differentiated by autograd.

It reorders the sums that `ops_reference` writes token by token: ``Q (K^T V)`` instead of ``(Q K^T) V``. The causal
form takes chunks of `CHUNK_LENGTH` tokens: it is quadratic inside a chunk, and reads the sums over the chunks before.
"""

import torch
from torch import Tensor

from .base_call import LinearAttentionCall
from .base_operators import accumulation_dtype, denominator


#: Tokens that the causal form handles quadratically before it folds them into the state. 64 and 128 measured
#: alike on CPU, and both ahead of 256 and 512, at head sizes around 64.
CHUNK_LENGTH = 128


def torch_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, call: LinearAttentionCall
) -> tuple[Tensor, Tensor]:
    """See `ops_linear.linear_attention`; any device and dtype, any derivative, and torch.func's transforms."""
    q, k, v = _prepare(query, key, value, call)
    kv_0, k_sum_0 = _split_state(call.initial_state, call.normalize, k.dtype)
    if call.causal:
        numerator, total, kv, k_sum = _causal_sums(q, k, v, kv_0, k_sum_0, call.normalize)
    else:
        kv = k.transpose(-1, -2) @ v
        kv = kv if kv_0 is None else kv + kv_0
        k_sum = k.sum(-2).unsqueeze(-1) if call.normalize else None
        if k_sum is not None and k_sum_0 is not None:
            k_sum = k_sum + k_sum_0
        numerator = q @ (torch.dropout(kv, call.dropout_p, True) if call.dropout_p > 0 else kv)
        total = None if k_sum is None else q @ k_sum
    return _finish(numerator, total, call).to(query.dtype), _join_state(kv, k_sum)


def torch_linear_attention_step(
    query: Tensor, key: Tensor, value: Tensor, call: LinearAttentionCall
) -> tuple[Tensor, Tensor]:
    """One token after those of ``call.initial_state``: an outer product, and no chunks."""
    q, k, v = _prepare(query, key, value, call)
    kv_0, k_sum_0 = _split_state(call.initial_state, call.normalize, k.dtype)
    column = k.transpose(-1, -2)
    kv = column * v if kv_0 is None else kv_0 + column * v
    k_sum = None if k_sum_0 is None else k_sum_0 + column
    output = _finish(q @ kv, None if k_sum is None else q @ k_sum, call)
    return output.to(query.dtype), _join_state(kv, k_sum)


def _causal_sums(
    q: Tensor, k: Tensor, v: Tensor, kv_0: Tensor | None, k_sum_0: Tensor | None, normalize: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Numerators, denominators without eps, and the final sums; without `normalize` only the sums of values."""
    batch, heads, length = q.shape[:3]
    # In an exported graph the length is a symbol, of which the number of chunks must be a function without branches.
    chunk = CHUNK_LENGTH if isinstance(length, torch.SymInt) else min(CHUNK_LENGTH, length)
    chunks = -(-length // chunk)
    padding = chunks * chunk - length

    def into_chunks(tensor: Tensor) -> Tensor:
        tensor = torch.nn.functional.pad(tensor, (0, 0, 0, padding)) if padding else tensor
        return tensor.reshape(batch, heads, chunks, chunk, tensor.shape[-1])

    q, k, v = into_chunks(q), into_chunks(k), into_chunks(v)
    weights = (q @ k.transpose(-1, -2)).tril()
    before, kv = _sums_before_and_after(k.transpose(-1, -2) @ v, kv_0)
    numerator = weights @ v + q @ before
    total, k_sum = None, None
    if normalize:
        before, k_sum = _sums_before_and_after(k.sum(-2).unsqueeze(-1), k_sum_0)
        total = weights.sum(-1, keepdim=True) + q @ before
        total = total.flatten(2, 3)[:, :, :length]
    numerator = numerator.flatten(2, 3)[:, :, :length]
    return numerator, total, kv, k_sum


def _sums_before_and_after(per_chunk: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum over the chunks before each chunk, ``[B, H, chunks, ..]``, and over all of them; both with `initial`."""
    first = torch.zeros_like(per_chunk[:, :, :1]) if initial is None else initial.unsqueeze(2)
    running = torch.cat([first, per_chunk], dim=2).cumsum(dim=2)
    return running[:, :, :-1], running[:, :, -1]


def _prepare(query: Tensor, key: Tensor, value: Tensor, call: LinearAttentionCall) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value in the dtype of the sums, with the keys of padding at zero."""
    dtype = accumulation_dtype(query.dtype)
    key = key.to(dtype)
    if call.key_mask is not None:
        key = key.masked_fill(~call.key_mask[:, None, :, None], 0.0)
    return query.to(dtype), key, value.to(dtype)


def _split_state(
    state: Tensor | None, normalize: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None] | tuple[None, None]:
    """The sums of ``k v^T`` and, with `normalize`, of `k`, which a state holds side by side."""
    if state is None:
        return None, None
    state = state.to(dtype)
    return (state[..., :-1], state[..., -1:]) if normalize else (state, None)


def _join_state(kv: Tensor, k_sum: Tensor | None) -> Tensor:
    return kv if k_sum is None else torch.cat([kv, k_sum], dim=-1)


def _finish(numerator: Tensor, total: Tensor | None, call: LinearAttentionCall) -> Tensor:
    output = numerator if total is None else numerator / denominator(total, call.eps)
    return output if call.scale is None else output * call.scale
