"""Text of others on its way to a terminal."""


def printable(text: str) -> str:
    """`text` with every character that is not printed as itself written as an escape; line ends and tabs stay.

    Names of files, fields of configs and the output of other processes may hold codes that colour, move or hide what
    a terminal shows.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )
