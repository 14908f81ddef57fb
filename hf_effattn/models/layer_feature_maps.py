"""Feature maps phi of kernel attention, fixed and trained, one module per layer, shared by queries and keys.

Every map takes ``[B, H, N, d]`` to non-negative features ``[B, H, N, F]``, so that the denominator
``phi(q) . sum phi(k)`` cannot vanish or change its sign. The trained maps have weights of their own for every head.
They are those of Yorsh & Kovalenko 2022 (arXiv 2211.04076), with the equations of the authors' code; FAVOR+ is
Choromanski et al. 2020 (arXiv 2009.14794), the spectral map is Chowdhury et al. 2021 (arXiv 2110.08323).

No map divides by ``sqrt(d)``, as the authors do after phi: the factor cancels between numerator and denominator.
"""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from transformers import initialization as init

from .base_map_layer import MapLayer
from .base_module_hooks import is_hooked
from .base_operators import accumulation_dtype
from .configuration_effattn import EffAttnConfig
from .configuration_kernel_transformer import KernelTransformerConfig


#: In a map of exponentials: the largest exponent of a query, and what is added to those of a key. Float32 reaches from
#: -87 to 88; the sum over a million keys takes 14, and the rest is divided so that large keys keep their features.
QUERY_EXPONENT, KEY_EXPONENT = 20.0, 30.0


class FeatureMap(nn.Module):
    """A map from heads to non-negative features.

    Attributes:
        num_features: the number of features, `F`.
        unit: what the epsilon of a denominator is multiplied by, to be small beside products of features.
        scales_queries: whether the features of a query are not those of an equal key.
    """

    scales_queries = False
    unit = 1.0

    def __init__(self, config: KernelTransformerConfig):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_features = config.num_features or self.head_dim

    def forward(self, heads: torch.Tensor | None = None, is_query: bool = False) -> torch.Tensor | None:
        """``[B, H, N, d]`` to ``[B, H, N, F]``; `is_query` is for maps that scale the features of a query.

        Without `heads` it returns the map's `penalty`: hooks load and gather parameters for a forward only.
        """
        if heads is None:
            return self.penalty()
        prepared, last = self.prepare(heads, is_query), self.last_layer()
        # By its method, because torch 2.11 does not trace the call of a frozen object.
        return prepared if last is None else last.__call__(prepared)

    def prepare(self, heads: torch.Tensor, is_query: bool) -> torch.Tensor:
        """The input of `last_layer`, or the features themselves if there is no such layer."""
        return heads

    def last_layer(self) -> MapLayer | None:
        """The last layer of the map, as a value that an operator can run itself; None if it has to be run here."""
        return None

    def penalty(self) -> torch.Tensor | None:
        """The distance of the map from an orthogonal one, or None for a map that has no such penalty."""
        return None

    def start_pass(self) -> None:
        """Called once per training pass, before it, for maps that change between passes."""

    def start_weights(self, config: EffAttnConfig) -> None:
        """Start the parameters and buffers of the map, through `transformers.initialization`."""


class ElementwiseMap(FeatureMap):
    """``elu(x) + 1`` (Katharopoulos et al. 2020, arXiv 2006.16236, eq. 7), ``relu(x)`` or ``softplus(x)``; F = d."""

    def __init__(self, config: KernelTransformerConfig):
        super().__init__(config)
        self.activation = config.feature_map

    def last_layer(self) -> MapLayer:
        return MapLayer(self.activation)


class TrainedMap(FeatureMap):
    """A stack of `num_kernel_layers` small layers per head: ``act(x W)``, the authors' "Linear" and "FFN" kernels.

    The last layer's activation is softplus, that of the inner ones the identity; dropout acts on the input of each.

    The parameters of a stack are registered one by one (``weight_0``, ``weight_1`` …) and not in an
    `nn.ParameterList`: transformers 5.24 takes a custom module without parameters of its own for initialised, and
    skips it silently.
    """

    def __init__(self, config: KernelTransformerConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.kernel_dropout_prob)
        self.num_layers = config.num_kernel_layers
        self.orthogonal_start = config.kernel_init == "orthogonal"
        self.widths = [self.head_dim] * self.num_layers + [self.num_features]
        self.add_stack("weight", list(pairwise(self.widths)))

    def add_stack(self, name: str, shapes: list[tuple[int, int]]) -> None:
        """Register one parameter ``[H, *shape]`` per layer."""
        for index, shape in enumerate(shapes):
            self.register_parameter(f"{name}_{index}", nn.Parameter(torch.empty(self.num_heads, *shape)))

    def stack(self, name: str) -> list[torch.Tensor]:
        """The parameters that `add_stack` registered, in the order of the layers."""
        # Not `get_parameter`: DataParallel, FSDP and `functional_call` put plain tensors in the place of parameters.
        return [getattr(self, f"{name}_{index}") for index in range(self.num_layers)]

    def layer(self, index: int) -> MapLayer:
        """One layer of the stack, ``[B, H, N, in]`` to ``[B, H, N, out]``."""
        activation = "softplus" if index == self.num_layers - 1 else "identity"
        return MapLayer(activation, self.stack("weight")[index])

    def prepare(self, heads: torch.Tensor, is_query: bool) -> torch.Tensor:
        for index in range(self.num_layers - 1):
            heads = self.inner(index, heads)
        dropped: torch.Tensor = self.dropout(heads)
        return dropped

    def inner(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """The output of a layer before the last, with dropout on its input."""
        return self.layer(index).__call__(self.dropout(x))

    def last_layer(self) -> MapLayer:
        return self.layer(self.num_layers - 1)

    def penalty(self) -> torch.Tensor:
        """Mean over heads and entries of ``(W W^T - I)^2``, summed over the layers.

        A weight with fewer outputs than inputs cannot have orthonormal rows; its columns are taken instead.
        """
        return torch.stack([orthogonality_error(weight) for weight in self.stack("weight")]).sum()

    def start_weights(self, config: EffAttnConfig) -> None:
        for weight in self.stack("weight"):
            if not self.orthogonal_start:
                # What torch takes for the inputs of a stack of matrices: all entries of one.
                bound = (weight.shape[1] * weight.shape[2]) ** -0.5
                init.uniform_(weight, -bound, bound)
                continue
            draws = [nn.init.orthogonal_(torch.empty_like(head, dtype=torch.float32)) for head in weight]
            init.copy_(weight, torch.stack(draws).to(weight.dtype))


class FeedForwardMap(TrainedMap):
    """``act(x W + b)``, with a residual around the inner layers: ``x + f(drop(x))``.

    The authors' class has both as options; the runs that they call "FFN" use neither, which is `TrainedMap`.
    """

    def __init__(self, config: KernelTransformerConfig):
        super().__init__(config)
        self.add_stack("bias", [(1, width) for width in self.widths[1:]])

    def layer(self, index: int) -> MapLayer:
        return replace(super().layer(index), bias=self.stack("bias")[index])

    def inner(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return x + super().inner(index, x)

    def start_weights(self, config: EffAttnConfig) -> None:
        super().start_weights(config)
        bound = self.head_dim**-0.5
        for bias in self.stack("bias"):
            init.uniform_(bias, -bound, bound)


class GatedMap(TrainedMap):
    """``act(x W) * sigmoid(x G)``: the authors' "GLU", and "OGLU" with the orthogonality penalty, on `W` alone."""

    def __init__(self, config: KernelTransformerConfig):
        super().__init__(config)
        self.add_gates(config)

    def add_gates(self, config: KernelTransformerConfig) -> None:
        """Register the parameters of the gates."""
        self.add_stack("gate", list(pairwise(self.widths)))

    def gate(self, index: int) -> torch.Tensor:
        """`G`, ``[H, in, out]``."""
        return self.stack("gate")[index]

    def layer(self, index: int) -> MapLayer:
        return replace(super().layer(index), gate=self.gate(index))

    def start_weights(self, config: EffAttnConfig) -> None:
        super().start_weights(config)
        for gate in self.stack("gate"):
            init.normal_(gate, std=(2 / gate.shape[1]) ** 0.5)


class LowRankGatedMap(GatedMap):
    """The gated map with ``G = A B`` of rank `kernel_rank`, d / 4 if None: the authors' "AOGLU"."""

    def add_gates(self, config: KernelTransformerConfig) -> None:
        rank = config.kernel_rank or max(1, self.head_dim // 4)
        self.add_stack("gate", [(width, rank) for width in self.widths[:-1]])
        self.add_stack("gate_output", [(rank, width) for width in self.widths[1:]])

    def gate(self, index: int) -> torch.Tensor:
        return super().gate(index) @ self.stack("gate_output")[index]

    def start_weights(self, config: EffAttnConfig) -> None:
        super().start_weights(config)
        for output in self.stack("gate_output"):
            init.normal_(output, std=(2 / output.shape[1]) ** 0.5)


class ExponentialMap(FeatureMap):
    """``exp(w_i . x - |x|^2 / 2) / sqrt(F)`` with ``x`` scaled by ``d^(-1/4)``: positive random features.

    With ``w`` standard normal, ``E[phi(q) . phi(k)] = exp(q . k / sqrt(d))``, the softmax kernel.

    Exponents are moved, which cancels in the ratio: those of a query so that the largest is `QUERY_EXPONENT`, those of
    keys by `KEY_EXPONENT`, the same for all keys, those of the future and of later steps included. They lie around
    ``-|x|^2 / 2``, so the features of large keys are small, and the epsilon of the denominator is multiplied by `unit`
    to be smaller. In float32 the weights of attention sum to 1, up to 1 %, for keys whose entries have a deviation of
    up to 4 for heads 64 wide, 3.5 for heads 128 wide and 3 for heads 256 wide. Those of larger keys fade to zero, of
    which `hf_effattn.diagnostics.diagnose` warns. A key along a frequency `w` has an exponent of up to ``|w|^2 / 2``;
    what exceeds 88 with those of the shifts, and 14 for a million such keys, is infinite, and gives NaN.
    """

    scales_queries = True
    unit = math.exp(-46)

    def frequencies(self) -> torch.Tensor:
        """``[H, d, F]``."""
        raise NotImplementedError

    def prepare(self, heads: torch.Tensor, is_query: bool) -> torch.Tensor:
        dtype = accumulation_dtype(heads.dtype)
        x = heads.to(dtype) * self.head_dim**-0.25
        with torch.autocast(heads.device.type, enabled=False):
            exponent = x @ self.frequencies().to(dtype) - x.pow(2).sum(-1, keepdim=True) / 2
        if is_query:
            exponent = exponent - (exponent.detach().amax(-1, keepdim=True) - QUERY_EXPONENT)
        else:
            exponent = exponent + KEY_EXPONENT
        features: torch.Tensor = exponent.exp() * self.num_features**-0.5
        return features


class FavorMap(ExponentialMap):
    """FAVOR+: the frequencies are random, orthogonal in blocks of `d`, and drawn anew during training.

    They are a persistent buffer, so a checkpoint computes what was trained. The family's model calls `start_pass` once
    per training pass, in front of its layers: in a layer the draw would run again, and move the random numbers of
    dropout, when gradient checkpointing recomputes it. Directly after a draw a model is worse for some hundred steps,
    which an evaluation then shows; ``redraw_interval=None`` keeps the first frequencies.
    """

    projection: torch.Tensor
    passes: torch.Tensor

    def __init__(self, config: KernelTransformerConfig):
        super().__init__(config)
        self.redraw_interval = config.redraw_interval
        self.register_buffer("projection", torch.empty(self.num_heads, self.head_dim, self.num_features))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def frequencies(self) -> torch.Tensor:
        # A copy: a draw writes in place (DistributedDataParallel synchronises this tensor only), and a backward pass
        # needs the frequencies of its own forward pass.
        return self.projection.clone() if self.training else self.projection

    def start_pass(self) -> None:
        """Count a training pass, and draw new frequencies in every `redraw_interval`-th.

        Raises:
            RuntimeError: the frequencies are offloaded, and the next load would undo the draw.
        """
        if self.redraw_interval is not None and self.projection.is_meta:
            raise RuntimeError(
                "the random features of an offloaded model cannot be drawn anew: set redraw_interval=None, leave its "
                "buffers where they are (offload_buffers=False), or call eval()"
            )
        self.passes += 1
        if self.redraw_interval is None:
            return
        due = self.passes % self.redraw_interval == 0
        if torch.compiler.is_compiling():
            # A graph has no branches: it draws in every pass, and uses the draw only if one is due.
            self.projection.copy_(torch.where(due, self.draw().to(self.projection.dtype), self.projection))
        elif bool(due):
            self.projection.copy_(self.draw())

    def draw(self) -> torch.Tensor:
        """Frequencies ``[H, d, F]`` with standard normal marginals, orthogonal within blocks of `d` features."""
        heads, dim = self.num_heads, self.head_dim
        blocks = -(-self.num_features // dim)
        device = self.projection.device
        # Half precision has no QR decomposition.
        single = partial(torch.randn, device=device, dtype=torch.float32)
        gaussian = single(heads, blocks, dim, dim)
        directions = torch.linalg.qr(gaussian)[0].transpose(-1, -2).reshape(heads, blocks * dim, dim)
        lengths = single(heads, blocks * dim, dim).norm(dim=-1, keepdim=True)
        drawn: torch.Tensor = directions * lengths
        return drawn[:, : self.num_features].transpose(1, 2)

    def start_weights(self, config: EffAttnConfig) -> None:
        init.copy_(self.projection, self.draw().to(self.projection.dtype))
        init.zeros_(self.passes)


class SpectralMap(ExponentialMap):
    """Learned frequencies: a mixture of `num_mixtures` Gaussians per head, reparametrised over fixed noise.

    ``w_i = mu_c + sigma_c * noise_i`` with the features dealt to the components in turn (the form that its authors
    call GMM-PRF). It starts as the softmax kernel: means at zero up to `initializer_range`, deviations at one.
    """

    noise: torch.Tensor

    def __init__(self, config: KernelTransformerConfig):
        super().__init__(config)
        shape = (self.num_heads, config.num_mixtures, self.head_dim)
        self.means = nn.Parameter(torch.empty(shape))
        self.log_deviations = nn.Parameter(torch.empty(shape))
        self.register_buffer("noise", torch.empty(self.num_heads, self.num_features, self.head_dim))

    def frequencies(self) -> torch.Tensor:
        component = torch.arange(self.num_features, device=self.noise.device) % self.means.shape[1]
        drawn = self.means[:, component] + self.log_deviations[:, component].exp() * self.noise
        return drawn.transpose(1, 2)

    def start_weights(self, config: EffAttnConfig) -> None:
        init.normal_(self.means, std=config.initializer_range)
        init.zeros_(self.log_deviations)
        init.normal_(self.noise)


def orthogonality_error(weight: torch.Tensor) -> torch.Tensor:
    """Mean over heads and entries of ``(W W^T - I)^2``, or of ``(W^T W - I)^2`` where that is the smaller product."""
    rows = weight if weight.shape[1] <= weight.shape[2] else weight.transpose(1, 2)
    gram = rows @ rows.transpose(1, 2)
    return (gram - torch.eye(gram.shape[-1], device=gram.device, dtype=gram.dtype)).pow(2).mean()


def prepare_features(
    phi: FeatureMap, query: torch.Tensor, key: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, MapLayer | None]:
    """Queries and keys ``[B, H, N, ..]``, and the last layer of `phi`, which an operator has to run on them, or None.

    Offloading, FSDP, ZeRO-3 and gradients per sample hang hooks on the forward of a module, which load, gather or
    record its parameters. A map with hooks or inside a wrapper is therefore called, and its features are complete.
    Otherwise the operator runs the last layer.
    """
    if is_hooked(phi, FeatureMap):
        return (phi(query, True) if phi.scales_queries else phi(query)), phi(key), None
    return phi.prepare(query, is_query=True), phi.prepare(key, is_query=False), phi.last_layer()


FEATURE_MAPS: dict[str, type[FeatureMap]] = {
    "elu": ElementwiseMap,
    "relu": ElementwiseMap,
    "softplus": ElementwiseMap,
    "favor": FavorMap,
    "linear": TrainedMap,
    "ffn": FeedForwardMap,
    "glu": GatedMap,
    "low_rank_glu": LowRankGatedMap,
    "spectral": SpectralMap,
}


def make_feature_map(config: KernelTransformerConfig) -> FeatureMap:
    """The map that `config.feature_map` names."""
    return FEATURE_MAPS[config.feature_map](config)
