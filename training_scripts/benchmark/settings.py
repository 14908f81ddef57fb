"""How large a benchmark is: the full one, and a quick one that shows in seconds that everything runs."""

from dataclasses import dataclass

from ..measuring.timing import Rounds


#: The parts that can be run and saved on their own, in the order in which they run.
GROUPS = ("operators", "breakdown", "models", "memory", "decode")


@dataclass(frozen=True)
class Settings(Rounds):
    """Sizes and time budgets of a benchmark, and the rounds of its scenarios.

    Attributes:
        quick: whether this is the quick form, whose numbers mean nothing.
        lengths: sequence lengths of the operators.
        trained_map_length: the length at which operators with trained maps run.
        trained_map_features: how many features these maps have.
        check_length: the length at which every operator is compared with its float64 oracle.
        memory_lengths: lengths at which peak memory is measured.
        decode_contexts: tokens that a decoder has seen before the measured step.
        decode_steps: steps that are timed in a row.
        model_length: sequence length of the whole models.
        model_size: hidden size, layers, heads and intermediate size of the whole models.
        compiled: whether ``torch.compile`` takes part.
        round_seconds: what the rounds of one scenario may take, unless `least_rounds` need more.
        model_seconds: the same for whole models.
    """

    quick: bool = False
    lengths: tuple[int, ...] = (1024, 4096, 16384)
    trained_map_length: int = 16384
    trained_map_features: tuple[int, ...] = (64, 128, 256)
    check_length: int = 256
    memory_lengths: tuple[int, ...] = (1024, 4096, 16384, 65536)
    decode_contexts: tuple[int, ...] = (1024, 4096, 16384, 65536)
    decode_steps: int = 20
    model_length: int = 4096
    model_size: tuple[int, int, int, int] = (256, 4, 4, 1024)
    compiled: bool = True
    round_seconds: float = 5.0
    model_seconds: float = 120.0


def quick_settings() -> Settings:
    """Lengths so short that only the machinery is tested."""
    return Settings(
        quick=True,
        lengths=(128,),
        trained_map_length=128,
        trained_map_features=(64,),
        check_length=128,
        memory_lengths=(128,),
        decode_contexts=(32, 64),
        decode_steps=2,
        model_length=128,
        model_size=(32, 2, 2, 64),
        compiled=False,
        round_seconds=0.1,
        model_seconds=0.5,
        least_rounds=2,
        most_rounds=2,
        slow_rounds=2,
    )
