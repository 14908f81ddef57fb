"""Linear attention in O(N): whole sequences, bidirectional or causal, and one step of decoding.

The shapes are those of `ops_reference`, which also has the equations.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from .backend_cpu import CPU_DTYPES, cpu_linear_attention, missing_kernels
from .backend_table import Backend, register_backend, resolve_backend
from .backend_torch import torch_linear_attention, torch_linear_attention_step
from .backend_triton import DEVICE_TYPES, missing_triton, triton_linear_attention, triton_linear_attention_step
from .base_call import LinearAttentionCall
from .base_map_layer import MapLayer
from .base_operators import TRITON_DTYPES, TRITON_WIDTH
from .ops_reference import reference_linear_attention


#: The operator's name in the table of backends.
LINEAR_ATTENTION = "linear_attention"


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
        initial_state: the state after earlier tokens, see Returns.
        dropout_p: dropout on the entries of `S`, defined with ``causal=False`` and ``normalize=False`` only.
        feature_map: the last layer of a feature map, which query and key still have to pass. A backend that runs it
            chunk by chunk never holds the features of the whole sequence.
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
    call = LinearAttentionCall(key_mask, causal, normalize, scale, eps, initial_state, dropout_p, feature_map)
    return run_linear_attention(query, key, value, call, backend)


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
    """One causal step: add one token to `state`, then read it. Time and memory do not depend on the past.

    The arguments are those of `linear_attention` with ``N = 1``; returns the output ``[B, H, 1, D]`` and the new
    state (`state` itself does not change).

    Raises:
        ValueError: more than one token, or shapes that do not fit.

    Complexity: O(F D).
    """
    if query.shape[-2] != 1:
        raise ValueError(f"a decoding step takes one token, got {query.shape[-2]}; use linear_attention for more")
    call = LinearAttentionCall(key_mask, True, normalize, scale, eps, state, 0.0, feature_map)
    return run_linear_attention(query, key, value, call, backend)


def run_linear_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: LinearAttentionCall, backend: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """`linear_attention` with its options in one value; `linear_attention_step` where it is one token after others."""
    call.check(query, key, value)
    width = max(call.num_features(query), value.shape[-1])
    chosen = resolve_backend(LINEAR_ATTENTION, backend, query.device, query.dtype, width)
    if call.feature_map is not None and not chosen.fuses_maps:
        # By its method, because torch 2.11 does not trace the call of a frozen object.
        map_layer = call.feature_map.__call__
        query, key, call = map_layer(query), map_layer(key), replace(call, feature_map=None)
    function = chosen.function
    if chosen.step is not None and call.causal and call.initial_state is not None and query.shape[2] == 1:
        function = chosen.step
    with _without_autocast(query.device.type):
        output, state = function(query, key, value, call)
    return output, state


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Under autocast products would run, and the state would be kept, in half precision."""
    enabled = device_type != "meta" and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if enabled else nullcontext()


def _reference(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: LinearAttentionCall
) -> tuple[torch.Tensor, torch.Tensor]:
    """The oracle, which imports nothing of the library and so takes the options one by one."""
    return reference_linear_attention(
        query,
        key,
        value,
        key_mask=call.key_mask,
        causal=call.causal,
        normalize=call.normalize,
        scale=call.scale,
        eps=call.eps,
        initial_state=call.initial_state,
        dropout_p=call.dropout_p,
    )


for registered in (
    Backend(
        "triton",
        triton_linear_attention,
        triton_linear_attention_step,
        device_types=DEVICE_TYPES,
        dtypes=TRITON_DTYPES,
        max_width=TRITON_WIDTH,
        missing=missing_triton,
        opaque=True,
    ),
    Backend(
        "cpu",
        cpu_linear_attention,
        device_types=("cpu",),
        dtypes=CPU_DTYPES,
        missing=missing_kernels,
        opaque=True,
        fuses_maps=True,
    ),
    Backend("torch", torch_linear_attention, torch_linear_attention_step),
    Backend("reference", _reference, automatic=False),
):
    register_backend(LINEAR_ATTENTION, registered)
