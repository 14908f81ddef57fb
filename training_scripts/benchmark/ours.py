"""Our own operators, and the softmax attention that they are to replace."""

from functools import partial

import torch

from hf_effattn.models.base_map_layer import MapLayer
from hf_effattn.models.ops_linear import linear_attention
from hf_effattn.models.ops_softmax import softmax_attention

from .candidate import OURS, PEER, Candidate, Prepared
from .oracles import linear_attention_oracle, simpletron_scale, softmax_oracle
from .problem import ELU, GLU, IDENTITY, Problem


SOFTMAX = "softmax attention"

#: What linear attention computes, by feature map.
COMPUTES = {
    ELU: "linear attention, elu + 1, normalised",
    GLU: "linear attention, trained gated map, normalised",
    IDENTITY: "SimpleTRON, Q (KᵀV) / √N",
}


def map_parameters(problem: Problem) -> tuple[torch.Tensor, ...]:
    """Weight and gate of a trained map, ``[heads, dim, features]`` each; nothing for a fixed one."""
    if problem.feature_map != GLU:
        return ()
    generator = torch.Generator().manual_seed(1)
    shape = (problem.heads, problem.dim, problem.features)
    draws = [torch.randn(shape, generator=generator) * problem.dim**-0.5 for _ in range(2)]
    return tuple(draw.to(problem.torch_dtype).requires_grad_() for draw in draws)


def map_layer(problem: Problem, parameters: tuple[torch.Tensor, ...]) -> MapLayer:
    """The map of a problem, as the operator takes it."""
    if problem.feature_map == GLU:
        return MapLayer("softplus", weight=parameters[0], gate=parameters[1])
    return MapLayer(problem.feature_map)


def linear_candidate(backend: str, feature_map: str = ELU) -> Candidate:
    """`hf_effattn`'s linear attention on one of its backends, feature map included."""
    return Candidate(
        name=f"hf_effattn {backend}",
        computes=COMPUTES[feature_map],
        setup=partial(_prepare_linear, backend),
        origin=OURS,
        package="hf_effattn",
    )


def compiled_candidate() -> Candidate:
    """The plain torch backend under ``torch.compile``."""
    return Candidate(
        name="hf_effattn torch, torch.compile",
        computes=COMPUTES[ELU],
        setup=_prepare_compiled,
        origin=OURS,
        compiles=True,
        package="hf_effattn",
    )


def softmax_candidate() -> Candidate:
    """torch's fused softmax attention, through the operator of the softmax baseline."""
    return Candidate(name="torch SDPA", computes=SOFTMAX, setup=_prepare_softmax, origin=PEER)


def _prepare_linear(backend: str, problem: Problem) -> Prepared:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return linear_attention(
            q,
            k,
            v,
            causal=problem.causal,
            normalize=problem.normalize,
            scale=simpletron_scale(problem),
            feature_map=map_layer(problem, parameters),
            backend=backend,
        )[0]

    return Prepared(run, partial(linear_attention_oracle, problem), map_parameters(problem))


def _prepare_compiled(problem: Problem) -> Prepared:
    prepared = _prepare_linear("torch", problem)
    # Every problem compiles the same code object, whose number of recompilations is limited.
    torch._dynamo.reset()
    compiled = torch.compile(prepared.run, fullgraph=True, dynamic=False)
    return Prepared(compiled, prepared.oracle, prepared.parameters)


def _prepare_softmax(problem: Problem) -> Prepared:
    run = partial(softmax_attention, causal=problem.causal, backend="torch")
    return Prepared(run, partial(softmax_oracle, problem))
