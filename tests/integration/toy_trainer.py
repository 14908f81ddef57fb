"""Runs ``run_lra.py`` on the toy task, alone or under torchrun: ``python -m tests.integration.toy_trainer …``."""

import sys

from hf_effattn.lra.task import TASKS
from tests.integration.toy_loop import TOY
from tests.integration.user_runs import script


if __name__ == "__main__":
    TASKS["toy"] = TOY
    script("run_lra").main(sys.argv[1:])
