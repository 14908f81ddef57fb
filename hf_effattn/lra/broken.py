"""What becomes of rows that cannot be read: a few are named and left out, more are refused."""

from transformers.utils import logging


logger = logging.get_logger(__name__)

#: How many of them a message names.
NAMED = 5


def leave_out(source: object, broken: list[str], total: int, allowed: float, remedy: str) -> None:
    """Warn of the rows of `source` that are left out.

    Args:
        source: the file or folder.
        broken: where each broken row stands, and what is wrong with it.
        total: rows, the broken ones included.
        allowed: the share of them that may be broken.
        remedy: what to do if it is more.

    Raises:
        ValueError: more are broken, or there are no rows at all.
    """
    if total == 0:
        raise ValueError(f"{source} has no rows; {remedy}")
    if not broken:
        return
    more = ["…"] if len(broken) > NAMED else []
    message = f"{source}: {len(broken):,} of {total:,} rows are broken: {'; '.join(broken[:NAMED] + more)}"
    if len(broken) > allowed * total:
        raise ValueError(f"{message}. At most {allowed:.1%} may be; {remedy}")
    logger.warning(f"{message}. They are left out")
