"""The measures, each as a function of tensors."""

import torch


def memory_cosine(memory: torch.Tensor) -> torch.Tensor:
    """Mean cosine between two different cells: 1 when all cells of a memory point the same way.

    ``sum_{i != j} cos(m_i, m_j) / (l (l - 1))`` for ``[..., l, hidden]``, averaged over the leading dimensions. Its
    rise is the memory degradation of ConvLuna (arXiv 2404.00798).

    Raises:
        ValueError: fewer than two cells.
    """
    cells = memory.shape[-2]
    if cells < 2:
        raise ValueError(f"the cosine between cells needs two of them, got {cells}")
    unit: torch.Tensor = torch.nn.functional.normalize(memory.double(), dim=-1)
    # The sum over all pairs is the squared norm of the sum; the pairs of a cell with itself come to l.
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
    """Mean entropy of the rows of ``[B, H, N, M]``, over the log of the keys that a row can read: 1 is uniform.

    `key_mask` is ``[B, M]`` bool, `query_mask` ``[B, N]``: which rows count. Rows that have one key to read, or none,
    tell nothing and are left out; where there are only such rows the result is NaN.
    """
    entropy: torch.Tensor = torch.special.entr(weights.double()).sum(-1)
    keys = torch.full_like(entropy, weights.shape[-1])
    if key_mask is not None:
        keys = keys * 0 + key_mask.sum(-1)[:, None, None]
    telling = keys > 1
    if query_mask is not None:
        telling &= query_mask[:, None]
    return (entropy[telling] / keys[telling].log()).mean()


def denominator_range(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest ``phi(q_n) . sum_m phi(k_m)`` of real tokens, for ``[B, H, N, F]``.

    Near zero the quotient of kernel attention is noise; far above it half precision overflows. `mask` is ``[B, N]``
    bool; with `causal` the sum runs over ``m <= n``.
    """
    key = key.double() if mask is None else key.double().masked_fill(~mask[:, None, :, None], 0.0)
    total = key.cumsum(-2) if causal else key.sum(-2, keepdim=True)
    denominators = (query.double() * total).sum(-1)
    if mask is not None:
        denominators = denominators[mask[:, None].expand_as(denominators)]
    return denominators.min(), denominators.max()


def weight_sum(denominator: torch.Tensor, eps: float) -> torch.Tensor:
    """What the weights of kernel attention sum to: ``d / (d + eps)`` of a denominator `d` before `eps` is added."""
    return denominator / (denominator + eps).clamp(min=torch.finfo(denominator.dtype).tiny)


def state_norm(key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over rows and heads of ``||sum_m k_m v_m^T||_F``, the state of linear attention after the last token."""
    key = key.double() if mask is None else key.double().masked_fill(~mask[:, None, :, None], 0.0)
    norms: torch.Tensor = torch.linalg.matrix_norm(key.transpose(-1, -2) @ value.double())
    return norms.mean()
