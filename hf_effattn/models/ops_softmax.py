"""Softmax attention, the baseline: torch's scaled dot product attention behind the contract of `ops_reference`."""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .backend_table import Backend, register_backend, resolve_backend
from .base_operators import check_devices, check_key_mask, unit_stride, visible_keys
from .base_transforms import reason_against_opaque_operators, refuse_second_derivatives
from .ops_reference import reference_softmax_attention


#: The operator's name in the table of backends.
SOFTMAX_ATTENTION = "softmax_attention"


def softmax_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """``softmax(scale * Q K^T) V`` (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    Args:
        query: ``[B, H, N, F]``; with ``causal`` and ``N < M`` the queries are the last `N` positions.
        key: ``[B, H, M, F]``.
        value: ``[B, H, M, D]``.
        key_mask: ``[B, M]`` bool, True for a real token; a query that sees no key reads zeros.
        causal: whether a query sees only keys at or before its own position.
        scale: factor on the scores, ``1 / sqrt(F)`` if None.
        dropout_p: dropout on the attention weights.
        backend: ``"auto"``, or the name of a backend (`hf_effattn.backends()` lists them).

    Returns:
        ``[B, H, N, D]`` in the query's dtype.

    Raises:
        ValueError: shapes that do not fit, tensors on several devices, more queries than keys with ``causal``, an
            empty sequence, a mask that is not bool, or an unknown backend.
        RuntimeError: the backend asked for by name cannot serve this device and dtype.

    Complexity: O(N M (F + D)) time; the memory depends on the kernel that torch picks.
    """
    if query.dim() != 4 or key.shape[:3] != value.shape[:3] or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            "softmax attention takes query [batch, heads, queries, dim] and key and value [batch, heads, keys, dim], "
            f"got {list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
        )
    check_devices(query, key=key, value=value, key_mask=key_mask)
    if query.shape[2] == 0 or key.shape[2] == 0:
        raise ValueError("softmax attention got a sequence of length 0")
    if causal and query.shape[2] > key.shape[2]:
        raise ValueError(f"causal attention got {query.shape[2]} queries for {key.shape[2]} keys")
    if key_mask is not None:
        check_key_mask(key_mask, key)
    chosen = resolve_backend(SOFTMAX_ATTENTION, backend, query.device, query.dtype)
    function: Callable[..., torch.Tensor] = chosen.function
    return function(query, key, value, key_mask=key_mask, causal=causal, scale=scale, dropout_p=dropout_p)


def torch_softmax_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    key_mask: torch.Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """The ``torch`` backend of `softmax_attention`: `torch.nn.functional.scaled_dot_product_attention`."""
    # Without a unit stride torch leaves its fused kernel for one that builds the N x M weights, and does not say so.
    query, key, value = unit_stride(query), unit_stride(key), unit_stride(value)
    if key_mask is None and (not causal or query.shape[2] in (1, key.shape[2])):
        # The last position sees every key, so a single query needs no causal mask.
        return _scaled(query, key, value, None, dropout_p, causal and query.shape[2] > 1, scale)
    visible = visible_keys(query, key, key_mask, causal)
    output = _scaled(query, key, value, visible, dropout_p, False, scale)
    # What a softmax over nothing gives differs between torch's kernels (NaN, zeros or a mean).
    return output.masked_fill(~visible.any(-1, keepdim=True), 0.0)


def _scaled(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """Torch's function, with the kernel of plain operations where its fused ones have no derivative."""
    arguments = (query, key, value, mask, dropout_p, is_causal)
    if reason_against_opaque_operators() is not None:
        with sdpa_kernel(SDPBackend.MATH):
            return scaled_dot_product_attention(*arguments, scale=scale)
    output = scaled_dot_product_attention(*arguments, scale=scale)
    if output.grad_fn is not None and "ScaledDotProduct" in output.grad_fn.name():
        refuse_second_derivatives(output, 'use attention_backend="reference", which builds the weights')
    return output


register_backend(SOFTMAX_ATTENTION, Backend("torch", torch_softmax_attention))
register_backend(SOFTMAX_ATTENTION, Backend("reference", reference_softmax_attention, automatic=False))
