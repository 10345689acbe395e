"""InputError, the one exception for wrong input: one sentence, no traceback."""

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Wrong input, explained in one sentence: what was expected, what came, what to do.

    The command lines print the sentence and exit with a non-zero status. Every other exception is a
    defect of this package and keeps its traceback.
    """


def join_some(items: Sequence[str], most: int) -> str:
    """Join the first `most` items with commas and count the others: "a, b and 3 more"."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return an `InputError` for a wrong `name` of some `kind` that lists near and known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return InputError(f"Unknown {kind} {name!r}: {hint}The known ones are {', '.join(known)}.")


def unusable(kind: str, name: str, reason: str) -> InputError:
    """Return an `InputError` for an implementation that is requested by name but cannot be used."""
    return InputError(
        f"The {kind} implementation '{name}' cannot be used: {reason}. Use 'auto', which then "
        f"chooses another one."
    )
