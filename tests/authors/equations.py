"""The layers of the authors' classifiers, written from their equations for one sequence ``[N, hidden]`` at a time.

Nothing of `hf_effattn` is imported here, and no layer of torch: a formula, its loops and its parameters are all there
is. A function takes the parameters `theta` (name -> tensor), the name of its own, and `drop`, which stands at every
place where the authors drop something and is called with the name of the place.
"""

import math
from collections.abc import Callable

import torch


Theta = dict[str, torch.Tensor]
Drop = Callable[[str, torch.Tensor], torch.Tensor]

#: What the authors add to the scores of padding.
MASKED = -1e5


def affine(theta: Theta, name: str, x: torch.Tensor) -> torch.Tensor:
    """``x W^T + b``."""
    return x @ theta[f"{name}.weight"].T + theta[f"{name}.bias"]


def layer_norm(theta: Theta, name: str, x: torch.Tensor) -> torch.Tensor:
    """``g (x - mean) / sqrt(variance + 1e-6) + b`` over the channels."""
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return theta[f"{name}.weight"] * centred / (variance + 1e-6).sqrt() + theta[f"{name}.bias"]


def gelu(x: torch.Tensor) -> torch.Tensor:
    """``x P(a standard normal variable is below x)``."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def relu(x: torch.Tensor) -> torch.Tensor:
    return x * (x > 0)


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log(1 + torch.exp(x))


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over the last dimension."""
    powers = torch.exp(scores - scores.detach().max(-1, keepdim=True).values)
    return powers / powers.sum(-1, keepdim=True)


def head(x: torch.Tensor, index: int, heads: int) -> torch.Tensor:
    """The channels of one head, ``[N, d]``."""
    width = x.shape[1] // heads
    return x[:, index * width : (index + 1) * width]


def feed_forward(theta: Theta, name: str, x: torch.Tensor, drop: Drop) -> torch.Tensor:
    inner = drop("inner", gelu(affine(theta, f"{name}.up", x)))
    return drop("feed-forward", affine(theta, f"{name}.down", inner))


def simpletron(theta: Theta, name: str, x: torch.Tensor, heads: int, drop: Drop) -> torch.Tensor:
    """``Q drop(K^T V / sqrt(N))`` per head, without an output projection."""
    query, key, value = (affine(theta, f"{name}.{part}", x) for part in ("query", "key", "value"))
    outputs = []
    for h in range(heads):
        q, k, v = (head(part, h, heads) for part in (query, key, value))
        product = torch.zeros(k.shape[1], v.shape[1], dtype=x.dtype)
        for m in range(len(x)):
            product = product + torch.outer(k[m], v[m])
        product = drop("attention", product / math.sqrt(len(x)))
        outputs.append(torch.stack([q[n] @ product for n in range(len(x))]))
    return torch.cat(outputs, 1)


def kernel_features(theta: Theta, name: str, kind: str, layers: int, x: torch.Tensor, h: int, drop: Drop):
    """phi of one head, ``[N, d]``: `layers` kernel layers, of which the last ends in softplus, the others in nothing.

    ``"linear"`` is ``act(u W)`` with ``u = drop(x)``, ``"ffn"`` is ``x + act(u W + b)`` but for the last layer, which
    has no residual, ``"glu"`` is ``act(u W) sigmoid(u G)`` and ``"low_rank_glu"`` the same with ``G = A B``.
    """
    for index in range(layers):
        last = index == layers - 1
        u = drop("kernel", x)
        y = u @ theta[f"{name}.{index}.weight"][h]
        if kind == "ffn":
            y = y + theta[f"{name}.{index}.bias"][h]
        y = softplus(y) if last else y
        if kind == "glu":
            y = y * sigmoid(u @ theta[f"{name}.{index}.gate"][h])
        if kind == "low_rank_glu":
            y = y * sigmoid(u @ theta[f"{name}.{index}.gate"][h] @ theta[f"{name}.{index}.gate_output"][h])
        x = x + y if kind == "ffn" and not last else y
    return x


def kernel_attention(theta: Theta, name: str, kind: str, layers: int, x: torch.Tensor, heads: int, drop: Drop):
    """``phi(q_n) sum_m phi(k_m) v_m^T / phi(q_n) sum_m phi(k_m)`` per head, phi divided by ``sqrt(d)``; then W_o."""
    query, key, value = (affine(theta, f"{name}.{part}", x) for part in ("query", "key", "value"))
    outputs = []
    for h in range(heads):
        q, k, v = (head(part, h, heads) for part in (query, key, value))
        q = kernel_features(theta, f"{name}.kernel", kind, layers, q, h, drop) / math.sqrt(q.shape[1])
        k = kernel_features(theta, f"{name}.kernel", kind, layers, k, h, drop) / math.sqrt(k.shape[1])
        numerator, denominator = torch.zeros(k.shape[1], v.shape[1], dtype=x.dtype), torch.zeros_like(k[0])
        for m in range(len(x)):
            numerator = numerator + torch.outer(k[m], v[m])
            denominator = denominator + k[m]
        outputs.append(torch.stack([q[n] @ numerator / (q[n] @ denominator) for n in range(len(x))]))
    return affine(theta, f"{name}.output", torch.cat(outputs, 1))


def orthogonality(theta: Theta, name: str) -> torch.Tensor:
    """The mean over heads and entries of ``(W W^T - I)^2``, of one kernel layer."""
    errors = [(w @ w.T - torch.eye(len(w), dtype=w.dtype)) ** 2 for w in theta[f"{name}.weight"]]
    return torch.stack(errors).mean()


def attention(
    theta: Theta,
    name: str,
    queries: torch.Tensor,
    tokens: torch.Tensor,
    temperature: torch.Tensor | float,
    heads: int,
    drop: Drop,
    mask: torch.Tensor | None = None,
    window: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
) -> torch.Tensor:
    """``Attn(queries, tokens, tokens)`` per head, ``drop(softmax(q F(k)^T / temperature)) F(v)``; then W_o.

    Without a value projection the values are the tokens. `mask` is 1 for a real token; padding is zeroed before the
    filter `window` (called with the keys or the values of a head and its index), and its scores afterwards lowered.
    """
    query, key, value = affine(theta, f"{name}.query", queries), affine(theta, f"{name}.key", tokens), tokens
    if f"{name}.value.weight" in theta:
        value = affine(theta, f"{name}.value", tokens)
    outputs = []
    for h in range(heads):
        q, k, v = (head(part, h, heads) for part in (query, key, value))
        if window is not None:
            k, v = (part if mask is None else part * mask[:, None] for part in (k, v))
            k, v = window(k, h), window(v, h)
        scores = q @ k.T / temperature
        if mask is not None:
            scores = scores + MASKED * (1 - mask)
        outputs.append(drop("attention", softmax(scores)) @ v)
    return affine(theta, f"{name}.output", torch.cat(outputs, 1))


def convolve(x: torch.Tensor, taps: torch.Tensor, stride: int) -> torch.Tensor:
    """``y_t = sum_j taps_j x_(t stride + j)`` for the keys or values ``[N, d]`` of one head.

    With stride 1 there are as many outputs as tokens: ``(k - 1) // 2`` zeros stand in front and ``k // 2`` behind.
    With a larger one there are the windows that lie inside, ``floor((N - k) / stride) + 1``.
    """
    width = len(taps)
    if stride == 1:
        front, behind = x.new_zeros((width - 1) // 2, x.shape[1]), x.new_zeros(width // 2, x.shape[1])
        x = torch.cat([front, x, behind])
    starts = range(0, len(x) - width + 1, stride)
    return torch.stack([sum(taps[j] * x[start + j] for j in range(width)) for start in starts])


def max_pool(x: torch.Tensor, width: int, stride: int) -> torch.Tensor:
    """The largest of every window that lies inside, channel by channel: ``floor((N - k) / stride) + 1`` outputs."""
    starts = range(0, len(x) - width + 1, stride)
    return torch.stack([x[start : start + width].max(0).values for start in starts])
