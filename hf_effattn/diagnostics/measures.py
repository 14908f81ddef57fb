"""The measures. Each one is a function of tensors."""

import torch


def memory_cosine(memory: torch.Tensor) -> torch.Tensor:
    """Mean cosine between two different cells: 1 when all cells of a memory point the same way.

    ``sum_{i != j} cos(m_i, m_j) / (l (l - 1))`` for ``[..., l, hidden]``, averaged over the leading dimensions.
    ConvLuna (arXiv 2404.00798) calls the rise of this cosine memory degradation.

    Raises:
        ValueError: fewer than two cells.
    """
    cells = memory.shape[-2]
    if cells < 2:
        raise ValueError(f"the cosine between cells needs two of them, got {cells}")
    unit: torch.Tensor = torch.nn.functional.normalize(memory.double(), dim=-1)
    # The sum over all pairs is the squared norm of the sum. The pairs of a cell with itself add up to l.
    return ((unit.sum(-2).square().sum(-1) - cells) / (cells * (cells - 1))).mean()


def stable_rank(matrix: torch.Tensor) -> torch.Tensor:
    """``||M||_F^2 / ||M||_2^2`` of ``[..., rows, columns]``, averaged: how many directions share the energy."""
    energy: torch.Tensor = torch.linalg.svdvals(matrix.double()).square()
    return (energy.sum(-1) / energy[..., 0].clamp(min=torch.finfo(energy.dtype).tiny)).mean()


def effective_rank(matrix: torch.Tensor) -> torch.Tensor:
    """``exp(-sum p log p)`` with ``p = s / sum s`` of the singular values `s` (Roy & Vetterli 2007), averaged.

    It lies between 1 and the smaller side of ``[..., rows, columns]``.
    """
    singular: torch.Tensor = torch.linalg.svdvals(matrix.double())
    share = singular / singular.sum(-1, keepdim=True).clamp(min=torch.finfo(singular.dtype).tiny)
    entropy: torch.Tensor = torch.special.entr(share).sum(-1)
    return entropy.exp().mean()


def attention_entropy(
    weights: torch.Tensor, key_mask: torch.Tensor | None = None, query_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean entropy of the rows of ``[B, H, N, M]``, divided by its maximum: 1 for uniform attention.

    The maximum is the logarithm of the number of keys that a row can read. `key_mask`, ``[B, M]`` bool, says which
    keys can be read; `query_mask`, ``[B, N]`` bool, says which rows count. Rows with at most one key have no entropy
    and are left out. If there are no other rows, the result is NaN.
    """
    entropy: torch.Tensor = torch.special.entr(weights.double()).sum(-1)
    keys = torch.full_like(entropy, weights.shape[-1])
    if key_mask is not None:
        keys = keys * 0 + key_mask.sum(-1)[:, None, None]
    counted = keys > 1
    if query_mask is not None:
        counted &= query_mask[:, None]
    return (entropy[counted] / keys[counted].log()).mean()


def denominator_range(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest denominator ``phi(q_n) . sum_m phi(k_m)`` of real tokens, for ``[B, H, N, F]``.

    A denominator near zero makes the output of kernel attention noise; a very large one overflows in half precision.
    `mask` is ``[B, N]`` bool, True for real tokens. With `causal`, the sum runs over ``m <= n``.
    """
    key = key.double() if mask is None else key.double().masked_fill(~mask[:, None, :, None], 0.0)
    total = key.cumsum(-2) if causal else key.sum(-2, keepdim=True)
    denominators = (query.double() * total).sum(-1)
    if mask is not None:
        denominators = denominators[mask[:, None].expand_as(denominators)]
    return denominators.min(), denominators.max()


def weight_sum(denominator: torch.Tensor, eps: float) -> torch.Tensor:
    """The sum of the weights of kernel attention: ``d / (d + eps)`` for a denominator `d` without `eps`."""
    return denominator / (denominator + eps).clamp(min=torch.finfo(denominator.dtype).tiny)


def state_norm(key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over rows and heads of ``||sum_m k_m v_m^T||_F``, the state of linear attention after the last token."""
    key = key.double() if mask is None else key.double().masked_fill(~mask[:, None, :, None], 0.0)
    norms: torch.Tensor = torch.linalg.matrix_norm(key.transpose(-1, -2) @ value.double())
    return norms.mean()
