"""Which exceptions that end a run of the arena are findings about a model."""

import pytest

from training_scripts.arena import run as arena


def test_whose_exception_it_was_is_read_from_the_last_traceback():
    ours = 'Traceback (most recent call last):\n  File "a/transformers/trainer.py", line 1\nValueError: mine\n'
    theirs = ours.replace("trainer.py", "models/bert/modeling_bert.py").replace("ValueError: mine", "torch.Error: x")
    assert arena.exception_of("bert", ours) is None
    assert arena.exception_of("fnet", theirs) is None
    assert arena.exception_of("bert", ours + theirs + "UserWarning: leaving\n") == "torch.Error: x"
    assert arena.exception_of("bert", theirs + ours) is None, "the one before was caught"


@pytest.mark.parametrize(
    "raised",
    [
        "KeyboardInterrupt",
        "MemoryError",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory",
        "OSError: [Errno 28] No space left on device",
    ],
)
def test_what_the_machine_did_is_never_kept_as_a_failure_of_the_model(raised):
    log = (
        f'Traceback (most recent call last):\n  File "a/transformers/models/bert/modeling_bert.py", line 1\n{raised}\n'
    )
    assert arena.exception_of("bert", log) is None
    assert arena.exception_of("bert", log.replace(raised, "TypeError: x")) == "TypeError: x"
