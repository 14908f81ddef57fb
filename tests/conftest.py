import os


# The tests use small data that is made here or installed, so whatever asks for the network is a mistake.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
import transformers


transformers.utils.logging.disable_progress_bar()

#: One test process per core runs at a time; more threads than that only get in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_start():
    """Seeded random numbers, and no compiled code of an earlier test."""
    torch.manual_seed(0)
    torch.compiler.reset()


@pytest.fixture
def poisoned_scratch():
    """Fill uninitialised memory with NaN, so that reading it shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def pytest_configure(config):
    # transformers' own tests (tests/upstream) bring these marks.
    for name in [
        "accelerate_tests",
        "flash_attn_test",
        "flash_attn_3_test",
        "flash_attn_4_test",
        "order",
        "torch_compile_test",
    ]:
        config.addinivalue_line("markers", f"{name}: a mark of transformers' own tests")
