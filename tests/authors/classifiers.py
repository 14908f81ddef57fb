"""The authors' classifiers whole: what one is made of, how its parameters start, its logits and its loss.

SimpleTRON, the kernels and the Transformer beside them normalise before every sublayer, Luna and ConvLuna after it.
All have a vector [CLS] in front of the sequence that gets no position, no norm after the embeddings, and one norm
before the head of a single sequence but none before that of a pair.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch

from tests.authors.equations import (
    Drop,
    Theta,
    affine,
    attention,
    convolve,
    feed_forward,
    gelu,
    kernel_attention,
    layer_norm,
    max_pool,
    orthogonality,
    relu,
    simpletron,
)


@dataclass(frozen=True)
class Design:
    """One of the authors' classifiers: its form, its sizes, and what it reads.

    Attributes:
        mixer: ``"simpletron"``, ``"kernel"``, ``"softmax"``, ``"luna"`` or ``"convluna"``.
        hidden, inner, heads, layers: width of the residual stream, of the feed-forward layers and of the head.
        length: tokens or pixels, without [CLS].
        vocabulary: ids of tokens, with padding as 0; None for pixels.
        pair: whether two sequences are compared.
        head_relu: whether the hidden layers of the head end in relu, as those of pairs did in 2022, and not in gelu.
        kernel, kernel_layers, penalty: kind and number of kernel layers, and lambda.
        orthogonal: whether the weights of kernel layers start orthogonal.
        cells: size of the memory.
        taps, stride, pool: the filter of ConvLuna, a convolution or a maximum.
        unpack_temperature: ``"unit"``, which their code computes, or ``"learned"``, which their paper says.
        skip: whether a block adds its input once more at its end.
        dropout: the probability inside the blocks; there is none in front of the head.
    """

    mixer: str
    hidden: int
    inner: int
    heads: int
    layers: int
    length: int
    vocabulary: int | None
    classes: int
    pair: bool = False
    head_relu: bool = False
    kernel: str = "glu"
    kernel_layers: int = 2
    penalty: float = 0.0
    orthogonal: bool = True
    cells: int = 256
    taps: int = 4
    stride: int = 1
    pool: bool = False
    unpack_temperature: str = "unit"
    skip: bool = False
    dropout: float = 0.0

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads

    @property
    def memory(self) -> bool:
        """Whether it has a memory, and its norms after the sublayers."""
        return self.mixer in ("luna", "convluna")

    @property
    def dense(self) -> list[tuple[int, int]]:
        """Widths of the hidden layers of the head."""
        if self.pair:
            return [(2 * self.hidden, self.inner), (self.inner, self.inner // 2)]
        return [(self.hidden, self.inner)] + [(self.inner, self.inner)] * (self.vocabulary is None)


@dataclass(frozen=True)
class Start:
    """The shape of a parameter and the law of its first values.

    Attributes:
        law: ``"normal"`` with deviation `scale`, ``"uniform"`` up to the bound `scale`, ``"constant"`` at `scale`, or
            ``"orthogonal"`` per head.
        pad: whether row 0 is zero.
    """

    shape: tuple[int, ...]
    law: str
    scale: float = 0.0
    pad: bool = False


def parameters(design: Design) -> dict[str, Start]:
    """Every parameter that reaches the logits: name -> shape and start."""
    hidden = design.hidden
    named = _embeddings(design)
    for index in range(design.layers):
        named |= _norm(f"{index}.norm_attention", hidden) | _norm(f"{index}.norm_feed_forward", hidden)
        named |= _linear(f"{index}.feed_forward.up", hidden, design.inner)
        named |= _linear(f"{index}.feed_forward.down", design.inner, hidden)
        for part in ("query", "key", "value", "output"):
            without = {"simpletron": "output", "convluna": "value"}
            if without.get(design.mixer) != part:
                named |= _linear(f"{index}.attention.{part}", hidden, hidden)
        if design.mixer == "kernel":
            for layer in range(design.kernel_layers):
                named |= _kernel_layer(f"{index}.attention.kernel.{layer}", design)
        # The last block's memory is read by nothing, so its norm is none of the parameters.
        if design.memory and index < design.layers - 1:
            named |= _norm(f"{index}.norm_memory", hidden)
        if design.mixer == "convluna":
            named[f"{index}.attention.pack_log_temperature"] = Start((1,), "constant")
            if design.unpack_temperature == "learned":
                named[f"{index}.attention.unpack_log_temperature"] = Start((1,), "constant")
            if not design.pool:
                named[f"{index}.attention.taps"] = Start((design.heads, design.taps), "uniform", design.taps**-0.5)
    if not design.pair:
        named |= _norm("head.norm", hidden)
    for index, (width, out) in enumerate(design.dense):
        named |= _linear(f"head.{index}", width, out)
    return named | _linear("head.logits", design.dense[-1][1], design.classes)


def _embeddings(design: Design) -> dict[str, Start]:
    hidden = design.hidden
    named = {"positions": Start((design.length, hidden), "constant")}
    if design.vocabulary is None:
        named["pixel.weight"] = Start((hidden,), "normal", 1.0)
        named["pixel.bias"] = Start((hidden,), "normal", 0.1)
        named["cls"] = Start((hidden,), "normal", 1.0)
    else:
        named["tokens"] = Start((design.vocabulary, hidden), "normal", 1.0, pad=True)
        # Xavier's uniform law for as many inputs as outputs.
        named["cls"] = Start((hidden,), "uniform", math.sqrt(3 / hidden))
    if design.memory:
        named["memory"] = Start((design.cells, hidden), "normal", 1.0)
    return named


def _linear(name: str, width: int, out: int) -> dict[str, Start]:
    bound = width**-0.5
    return {f"{name}.weight": Start((out, width), "uniform", bound), f"{name}.bias": Start((out,), "uniform", bound)}


def _norm(name: str, hidden: int) -> dict[str, Start]:
    return {f"{name}.weight": Start((hidden,), "constant", 1.0), f"{name}.bias": Start((hidden,), "constant")}


def _kernel_layer(name: str, design: Design) -> dict[str, Start]:
    heads, width = design.heads, design.head_width
    rank = width // 4
    # Torch counts the inputs of a weight [heads, width, width] as width * width, and so does its uniform start.
    start = ("orthogonal", 0.0) if design.orthogonal else ("uniform", 1 / width)
    named = {f"{name}.weight": Start((heads, width, width), *start)}
    if design.kernel == "ffn":
        named[f"{name}.bias"] = Start((heads, 1, width), "uniform", width**-0.5)
    if design.kernel == "glu":
        named[f"{name}.gate"] = Start((heads, width, width), "normal", math.sqrt(2 / width))
    if design.kernel == "low_rank_glu":
        named[f"{name}.gate"] = Start((heads, width, rank), "normal", math.sqrt(2 / width))
        named[f"{name}.gate_output"] = Start((heads, rank, width), "normal", math.sqrt(2 / rank))
    return named


class Classifier:
    """A design with parameters `theta`. `drop` stands where the authors drop, and by default does nothing."""

    def __init__(self, design: Design, theta: Theta, drop: Drop = lambda place, x: x):
        self.design, self.theta, self.drop = design, theta, drop

    def logits(self, batch: list, masks: list | None = None) -> torch.Tensor:
        """``[batch, classes]`` of sequences ``[N]``, pairs of them, or grey images ``[height, width]``.

        `masks` are what `batch` is made of, with 1 for a real token; None attends to padding as well.
        """
        masks = masks or [(None, None) if self.design.pair else None] * len(batch)
        return torch.stack([self._classify(item, mask) for item, mask in zip(batch, masks, strict=True)])

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy, and the penalty of the kernels."""
        chosen = logits[torch.arange(len(labels)), labels]
        return (torch.log(torch.exp(logits).sum(1)) - chosen).mean() + self.penalty()

    def penalty(self) -> torch.Tensor | float:
        """``lambda mean (W W^T - I)^2`` of every kernel layer, once for queries and once for keys.

        A pair would count it twice more, which the authors halve.
        """
        if not self.design.penalty:
            return 0.0
        layers = [(i, j) for i in range(self.design.layers) for j in range(self.design.kernel_layers)]
        errors = [orthogonality(self.theta, f"{i}.attention.kernel.{j}") for i, j in layers]
        return 2 * self.design.penalty * torch.stack(errors).sum()

    def _classify(self, item, mask) -> torch.Tensor:
        if self.design.pair:
            x = torch.cat([self._encode(part, seen)[0] for part, seen in zip(item, mask, strict=True)])
        else:
            x = self.drop("head", layer_norm(self.theta, "head.norm", self._encode(item, mask))[0])
        activation = relu if self.design.head_relu else gelu
        for index in range(len(self.design.dense)):
            x = activation(affine(self.theta, f"head.{index}", x))
        return affine(self.theta, "head.logits", x)

    def _embed(self, item: torch.Tensor) -> torch.Tensor:
        theta = self.theta
        if self.design.vocabulary is None:
            content = torch.stack([value * theta["pixel.weight"] + theta["pixel.bias"] for value in item.flatten()])
        else:
            # The vector of padding is no parameter: it has no gradient.
            table = theta["tokens"]
            content = torch.stack([table[token] if token else table[0].detach() for token in item.tolist()])
        return torch.cat([theta["cls"][None], content + theta["positions"]])

    def _encode(self, item: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """What the blocks make of one sequence, ``[1 + length, hidden]``."""
        x = self._embed(item)
        if not self.design.memory:
            for index in range(self.design.layers):
                x = self._pre_norm_block(str(index), x)
            return x
        mask = mask if mask is None else torch.cat([mask.new_ones(1), mask])
        memory = self.theta["memory"]
        for index in range(self.design.layers):
            x, memory = self._memory_block(str(index), x, memory, mask)
        return x

    def _pre_norm_block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """``x1 = x + attention(norm(x))`` and ``x1 + feed_forward(norm(x1))``, to which a skip adds x."""
        design, theta, drop = self.design, self.theta, self.drop
        normed = layer_norm(theta, f"{name}.norm_attention", x)
        if design.mixer == "simpletron":
            read = simpletron(theta, f"{name}.attention", normed, design.heads, drop)
        elif design.mixer == "softmax":
            tau = math.sqrt(design.head_width)
            read = attention(theta, f"{name}.attention", normed, normed, tau, design.heads, drop)
        else:
            kind = design.kernel, design.kernel_layers
            read = kernel_attention(theta, f"{name}.attention", *kind, normed, design.heads, drop)
        first = x + read
        normed = layer_norm(theta, f"{name}.norm_feed_forward", first)
        out = first + feed_forward(theta, f"{name}.feed_forward", normed, drop)
        return out + x if design.skip else out

    def _memory_block(self, name: str, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None):
        """Pack, unpack, and a norm after every sum; only tokens have a feed-forward layer.

        With a mask padding reads nothing, and its feed-forward layer gives nothing.
        """
        theta, drop, heads = self.theta, self.drop, self.design.heads
        real = 1.0 if mask is None else mask[:, None]
        tau_pack, tau_unpack = self._temperatures(name)
        attend = partial(attention, theta, f"{name}.attention", heads=heads, drop=drop)
        packed = attend(memory, x, tau_pack, mask=mask, window=self._window(name))
        read = attend(x, packed, tau_unpack) * real
        if f"{name}.norm_memory.weight" in theta:
            memory = layer_norm(theta, f"{name}.norm_memory", memory + packed)
        x = layer_norm(theta, f"{name}.norm_attention", x + read)
        inner = feed_forward(theta, f"{name}.feed_forward", x, drop) * real
        return layer_norm(theta, f"{name}.norm_feed_forward", x + inner), memory

    def _temperatures(self, name: str):
        """What the scores of packing and of unpacking are divided by."""
        if self.design.mixer == "luna":
            return (math.sqrt(self.design.head_width),) * 2
        pack = torch.exp(self.theta[f"{name}.attention.pack_log_temperature"])
        if self.design.unpack_temperature == "unit":
            return pack, 1.0
        return pack, torch.exp(self.theta[f"{name}.attention.unpack_log_temperature"])

    def _window(self, name: str):
        """The filter over the keys and values of one head, or None."""
        design = self.design
        if design.mixer == "luna":
            return None
        if design.pool:
            return lambda x, h: max_pool(x, design.taps, design.stride)
        return lambda x, h: convolve(x, self.theta[f"{name}.attention.taps"][h], design.stride)
