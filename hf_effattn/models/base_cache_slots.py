"""The table of states that a layer of transformers' cache can hold beside keys and values: one number, one meaning.

Such a layer has recurrent states (of any shape, kept whole) and convolution states (of which the last columns are
kept), both numbered from 0. The families use them as follows:

- recurrent state 0: the state of linear attention; of the memory transformer, keys and values of the memory and of
  the segment's tokens;
- convolution states: as `ConvState` numbers them.
"""

from enum import IntEnum, unique


@unique
class ConvState(IntEnum):
    """The convolution states of a cache layer. `unique` refuses two names for one number."""

    #: ``[B, 1, 1]``, how many real tokens every row has read.
    TOKEN_COUNT = 0
    #: ``[B, 2 * hidden + 1, k - 1]``, the keys and values that a causal filter reads again, and which are real.
    FILTER_COLUMNS = 1
    #: ``[B, hidden, memory_size]``, of the first layer only: the memory that the segment reads.
    MEMORY = 2


def conv_state_count(*used: ConvState) -> int:
    """How many convolution states a cache layer must have, for transformers' `number_of_conv_states`."""
    return max(used) + 1
