"""Attention through a memory: packing a sequence into a few cells, and unpacking it again.

Both are softmax attention, over many keys and over few, with a temperature in place of the root of the head size. The
temperature divides the memory, which is short, so its cost does not depend on the length.
"""

import torch

from .ops_softmax import softmax_attention


def pack_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
    key_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """``softmax(P X^T / tau) X``: every cell reads the sequence (Ma et al. 2021, arXiv 2106.01540, eq. 4).

    Args:
        query: ``[B, H, l, D]``, of the cells.
        key: ``[B, H, M, D]``, of the tokens, filtered or not.
        value: ``[B, H, M, D]``.
        temperature: tau, a number or a tensor with one entry.
        key_mask: ``[B, M]`` bool, True for a real token; without any, the cells read zeros.
        dropout_p: dropout on the attention weights.
        backend: a backend of ``softmax_attention``.

    Returns:
        ``[B, H, l, D]`` in the query's dtype.

    Raises:
        ValueError: as `softmax_attention`.

    Complexity: O(M l D).
    """
    query = query / temperature
    return softmax_attention(query, key, value, key_mask=key_mask, scale=1.0, dropout_p=dropout_p, backend=backend)


def unpack_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    temperature: float | torch.Tensor,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """``softmax(X Y^T / tau) Y``: every token reads the packed cells (Ma et al. 2021, arXiv 2106.01540, eq. 5).

    Args:
        query: ``[B, H, N, D]``, of the tokens.
        key: ``[B, H, l, D]``, of the packed cells.
        value: ``[B, H, l, D]``.
        temperature: tau, a number or a tensor with one entry.
        dropout_p: dropout on the attention weights.
        backend: a backend of ``softmax_attention``.

    Returns:
        ``[B, H, N, D]`` in the query's dtype.

    Raises:
        ValueError: as `softmax_attention`.

    Complexity: O(N l D).
    """
    return softmax_attention(query, key / temperature, value, scale=1.0, dropout_p=dropout_p, backend=backend)


__all__ = ["pack_attention", "unpack_attention"]
