"""The one exception that a user, not a programmer, is meant to read."""


class InputError(ValueError):
    """Bad input: one line that names the file or value, what is wrong with it, and the remedy.

    The scripts print it and leave with exit code 2 (`dss.cli`); a library user catches it like a `ValueError`.
    """


def listed(names: list[str], limit: int = 6) -> str:
    """Names for the one line of an error: all of a few; of many the first `limit`, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
