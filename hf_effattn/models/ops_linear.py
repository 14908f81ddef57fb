"""Linear attention in O(N): bidirectional, causal by chunks, and one step at a time.

The shapes are those of `ops_reference`; the mathematics is written there token by token. Here the same sums are
reordered: ``Q (K^T V)`` instead of ``(Q K^T) V``, and for the causal form chunks of `CHUNK_LENGTH` tokens in which
the quadratic form is used inside a chunk and the running state between chunks.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .backend_cpu import cpu_linear_attention, cpu_refusal
from .backend_table import Backend, register_backend, resolve_backend
from .base_map_layer import MapLayer
from .ops_reference import accumulation_dtype, denominator, reference_linear_attention


OPERATOR = "linear_attention"

#: The widest features and values that the Triton kernels take.
TRITON_WIDTH = 256

#: Tokens that the causal form handles quadratically before it folds them into the state. 64 and 128 measured
#: alike on CPU, and both ahead of 256 and 512, at head sizes around 64.
CHUNK_LENGTH = 128


def linear_attention(
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
    feature_map: MapLayer | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention whose weights are dot products: ``out_n = scale * q_n S / (q_n . z + eps)``.

    ``S = sum_m k_m v_m^T`` and ``z = sum_m k_m`` run over the real tokens, with ``causal`` over ``m <= n`` only.
    Without ``normalize`` there is no denominator: SimpleTRON (Yorsh et al. 2021, arXiv 2111.15588). With it this is
    the kernel form of Katharopoulos et al. 2020 (arXiv 2006.16236, eq. 5 and 9).

    Args:
        query, key: ``[B, H, N, F]``, already mapped, or ``[B, H, N, d]`` with `feature_map`; any strides, any
            floating dtype.
        value: ``[B, H, N, D]``.
        key_mask: ``[B, N]`` bool, True for a real token; it acts on the mapped keys. A row without any real token
            reads zeros (unless `initial_state` holds something to read).
        causal: whether a query sees only tokens at or before its own position.
        normalize: whether to divide by ``q_n . z + eps``; the features must then be non-negative.
        scale: a factor on the output: a number, or a tensor that broadcasts to ``[B, H, N, 1]``.
        eps: added to the denominator; where the sum is 0 even so, which only ``eps=0`` allows, it is taken for 1.
        initial_state: the state that earlier tokens left, see Returns.
        dropout_p: dropout on the entries of `S`, defined with ``causal=False`` and ``normalize=False`` only.
        feature_map: what is still to be done to query and key. A backend that can do it on the way never holds the
            features of the whole sequence.
        backend: ``"auto"``, or the name of a backend (`hf_effattn.backends()` lists them).

    Returns:
        The output ``[B, H, N, D]`` in the query's dtype, and the last state in float32 (float64 for float64 input):
        ``[B, H, F, D]``, or ``[B, H, F, D + 1]`` with ``normalize``, whose last column is `z`.

    Raises:
        ValueError: shapes that do not fit, tensors on several devices, an empty sequence, a mask that is not bool, or
            an unknown backend.
        RuntimeError: the backend asked for by name cannot serve this device, dtype and width, or the transform of
            torch.func or forward-mode derivative that the call is part of. ``"auto"`` takes plain torch for these.

    Accuracy: sums over tokens are float32, and rounded once for a chunk of them. For terms of one sign, roundings that
    all go the same way come to a relative error of ``6e-8 N / 64``: 1e-3 for a million tokens. Of `N` tokens one by
    one, in `linear_attention_step`, they come to ``6e-8 N``. Float64 inputs are summed in float64.

    Complexity: O(N F D) time; O(N (F + D)) memory bidirectional, O(N (F + D + F D / 128)) causal.
    """
    _check_arguments(query, key, value, key_mask, initial_state, scale, normalize, feature_map)
    _check_dropout(dropout_p, causal, normalize)
    chosen = resolve_backend(OPERATOR, backend, query.device, query.dtype, _width(query, value, feature_map))
    options: dict[str, Any] = {"key_mask": key_mask, "normalize": normalize, "scale": scale, "eps": eps}
    query, key, fused = _map_unless_fused(chosen, query, key, feature_map)
    with _without_autocast(query.device.type):
        return chosen.function(
            query, key, value, causal=causal, initial_state=initial_state, dropout_p=dropout_p, **options, **fused
        )


def linear_attention_step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    normalize: bool = True,
    scale: float | torch.Tensor | None = None,
    eps: float = 1e-6,
    feature_map: MapLayer | None = None,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """One causal step: fold one token into `state`, then read it. Time and memory do not depend on the past.

    The arguments are those of `linear_attention` with ``N = 1``; returns the output ``[B, H, 1, D]`` and the new
    state (`state` itself is left as it was).

    Raises:
        ValueError: more than one token, or shapes that do not fit.

    Complexity: O(F D).
    """
    if query.shape[-2] != 1:
        raise ValueError(f"a decoding step takes one token, got {query.shape[-2]}; use linear_attention for more")
    _check_arguments(query, key, value, key_mask, state, scale, normalize, feature_map)
    chosen = resolve_backend(OPERATOR, backend, query.device, query.dtype, _width(query, value, feature_map))
    options: dict[str, Any] = {"key_mask": key_mask, "normalize": normalize, "scale": scale, "eps": eps}
    query, key, fused = _map_unless_fused(chosen, query, key, feature_map)
    with _without_autocast(query.device.type):
        if chosen.step is not None:
            return chosen.step(query, key, value, state, **options, **fused)
        return chosen.function(query, key, value, causal=True, initial_state=state, **options, **fused)


def _width(query: torch.Tensor, value: torch.Tensor, feature_map: MapLayer | None) -> int:
    """The widest rows that a backend is given."""
    features = query.shape[-1] if feature_map is None else feature_map.num_features(query.shape[-1])
    return max(features, value.shape[-1])


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Under autocast products would run, and the state would be kept, in half precision."""
    enabled = device_type != "meta" and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if enabled else nullcontext()


def _map_unless_fused(chosen: Backend, query, key, feature_map: MapLayer | None):
    """Queries and keys, mapped unless the backend does it; and what it has to be told in that case."""
    if feature_map is None:
        return query, key, {}
    if chosen.fuses_maps:
        return query, key, {"feature_map": feature_map}
    # By its method, because torch 2.11 does not trace the call of a frozen object.
    return feature_map.__call__(query), feature_map.__call__(key), {}


def torch_linear_attention_step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    normalize: bool = True,
    scale: float | torch.Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`linear_attention_step` of the ``torch`` backend: an outer product, and no chunks."""
    q, k, v = _accumulators(query, key, value, key_mask)
    kv, k_sum = _split_state(state.to(k.dtype), normalize)
    kv = kv + k.transpose(-1, -2) * v
    k_sum = None if k_sum is None else k_sum + k.transpose(-1, -2)
    output = _finish(q @ kv, None if k_sum is None else q @ k_sum, scale, eps)
    return output.to(query.dtype), _join_state(kv, k_sum)


def torch_linear_attention(
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
    """The ``torch`` backend of `linear_attention`: plain tensor operations, differentiated by autograd."""
    q, k, v = _accumulators(query, key, value, key_mask)
    kv_0, k_sum_0 = None, None
    if initial_state is not None:
        kv_0, k_sum_0 = _split_state(initial_state.to(k.dtype), normalize)
    if causal:
        numerator, total, kv, k_sum = _causal_sums(q, k, v, kv_0, k_sum_0, normalize)
    else:
        kv = k.transpose(-1, -2) @ v
        kv = kv if kv_0 is None else kv + kv_0
        k_sum = k.sum(-2).unsqueeze(-1) if normalize else None
        if k_sum is not None and k_sum_0 is not None:
            k_sum = k_sum + k_sum_0
        numerator = q @ (torch.dropout(kv, dropout_p, True) if dropout_p > 0 else kv)
        total = None if k_sum is None else q @ k_sum
    return _finish(numerator, total, scale, eps).to(query.dtype), _join_state(kv, k_sum)


def _causal_sums(q, k, v, kv_0, k_sum_0, normalize):
    """Numerators, their totals of weights and the final sums of the causal form; no totals without `normalize`."""
    batch, heads, length = q.shape[:3]
    # In an exported graph the length is a symbol, of which the number of chunks must be a function without branches.
    chunk = CHUNK_LENGTH if isinstance(length, torch.SymInt) else min(CHUNK_LENGTH, length)
    chunks = -(-length // chunk)
    padding = chunks * chunk - length

    def into_chunks(tensor):
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


def _sums_before_and_after(per_chunk: torch.Tensor, initial: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """What the chunks before each chunk summed to (``[B, H, chunks, ..]``), and what all of them sum to."""
    first = torch.zeros_like(per_chunk[:, :, :1]) if initial is None else initial.unsqueeze(2)
    running = torch.cat([first, per_chunk], dim=2).cumsum(dim=2)
    return running[:, :, :-1], running[:, :, -1]


def _accumulators(query, key, value, key_mask):
    """Query, key and value in the dtype of accumulation, with the keys of padding at zero."""
    dtype = accumulation_dtype(query.dtype)
    key = key.to(dtype)
    if key_mask is not None:
        key = key.masked_fill(~key_mask[:, None, :, None], 0.0)
    return query.to(dtype), key, value.to(dtype)


def _split_state(state: torch.Tensor, normalize: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    return (state[..., :-1], state[..., -1:]) if normalize else (state, None)


def _join_state(kv: torch.Tensor, k_sum: torch.Tensor | None) -> torch.Tensor:
    return kv if k_sum is None else torch.cat([kv, k_sum], dim=-1)


def _finish(numerator, total, scale, eps):
    output = numerator if total is None else numerator / denominator(total, eps)
    return output if scale is None else output * scale


def _check_arguments(query, key, value, key_mask, initial_state, scale, normalize, feature_map) -> None:
    if query.dim() != 4 or query.shape != key.shape or value.dim() != 4 or value.shape[:3] != key.shape[:3]:
        raise ValueError(
            "linear attention takes query and key [batch, heads, length, features] and value [batch, heads, length, "
            f"dim], got {list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
        )
    if query.shape[2] == 0:
        raise ValueError("linear attention got a sequence of length 0")
    others = {"key": key, "value": value, "key_mask": key_mask, "initial_state": initial_state}
    others |= {} if feature_map is None else feature_map.tensors()
    check_devices(query, **others)
    # A number may come from another device, as in all of torch, but not from none.
    if isinstance(scale, torch.Tensor) and (scale.dim() > 0 or scale.is_meta):
        check_devices(query, scale=scale)
    if feature_map is not None and feature_map.weight is not None:
        heads, dim, _ = feature_map.weight.shape
        if (heads, dim) != (query.shape[1], query.shape[3]):
            raise ValueError(
                f"a feature map for {heads} heads of width {dim} does not fit queries {list(query.shape)} "
                "[batch, heads, length, width]"
            )
    if key_mask is not None:
        check_key_mask(key_mask, key)
    if initial_state is not None:
        columns = value.shape[-1] + 1 if normalize else value.shape[-1]
        features = query.shape[3] if feature_map is None else feature_map.num_features(query.shape[3])
        expected = (query.shape[0], query.shape[1], features, columns)
        if initial_state.shape != expected:
            raise ValueError(
                f"the state of linear attention with normalize={normalize} has shape {list(expected)} here, "
                f"got {list(initial_state.shape)}"
            )


def _check_dropout(dropout_p: float, causal: bool, normalize: bool) -> None:
    if dropout_p > 0 and (causal or normalize):
        raise ValueError(
            f"dropout_p={dropout_p} acts on the summed state, which is only defined for causal=False and "
            f"normalize=False (here causal={causal}, normalize={normalize}). Train with dropout_p=0."
        )


def check_devices(query: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raise ValueError unless all tensors lie on the device of `query`, and name the first that does not."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != query.device:
            remedy = "move them to one device"
            if tensor.is_meta or query.is_meta:
                remedy = "a tensor on 'meta' has no values: load it, or call the module whose hooks load it"
            raise ValueError(f"query is on {query.device} and {name} on {tensor.device}; {remedy}")


def check_key_mask(key_mask: torch.Tensor, key: torch.Tensor) -> None:
    """Raise ValueError unless `key_mask` is bool and ``[B, M]`` for keys ``[B, H, M, F]``."""
    if key_mask.dtype != torch.bool:
        raise ValueError(f"key_mask must be bool (True = real token), got {key_mask.dtype}")
    if key_mask.shape != (key.shape[0], key.shape[2]):
        raise ValueError(
            f"key_mask must be [batch, keys] = {[key.shape[0], key.shape[2]]}, got {list(key_mask.shape)}; "
            "per-query masks have no linear form"
        )


@torch.compiler.assume_constant_result
def triton_refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels cannot serve, or None. Triton is not imported before a tensor is on a device for it."""
    if device.type == "cpu" and "TRITON_INTERPRET" not in os.environ:
        return "it runs on CUDA and ROCm devices"
    from .backend_triton import triton_refusal as refusal

    return refusal(device, dtype)


def triton_linear_attention(*tensors: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`backend_triton.triton_linear_attention`, imported when it is first called."""
    from .backend_triton import triton_linear_attention as function

    return function(*tensors, **options)


def triton_linear_attention_step(*tensors: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`backend_triton.triton_linear_attention_step`, imported when it is first called."""
    from .backend_triton import triton_linear_attention_step as function

    return function(*tensors, **options)


for backend in (
    Backend(
        "triton",
        triton_linear_attention,
        refusal=triton_refusal,
        max_width=TRITON_WIDTH,
        opaque=True,
        step=triton_linear_attention_step,
    ),
    Backend("cpu", cpu_linear_attention, refusal=cpu_refusal, opaque=True, fuses_maps=True),
    Backend("torch", torch_linear_attention, step=torch_linear_attention_step),
    Backend("reference", reference_linear_attention, automatic=False),
):
    register_backend(OPERATOR, backend)
