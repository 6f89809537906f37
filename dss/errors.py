"""The one exception that a user, not a programmer, is meant to read."""


class InputError(ValueError):
    """Bad input: one line that names the file or value, what is wrong with it, and the remedy.

    The scripts print it and leave with exit code 2 (`dss.cli`); a library user catches it like a
    `ValueError`.
    """


def listed(names: list[str], limit: int = 6) -> str:
    """Names for the one line of an error: the first few, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
