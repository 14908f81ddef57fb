"""Makes foreign text safe to print on a terminal."""


def printable(text: str) -> str:
    """Escape every character that a terminal does not print as itself, except line ends and tabs.

    Names of files, fields of configs and the output of other processes may hold control codes. They could colour, move
    or hide what a terminal shows.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )
