"""The one exception for what a user gave us and we cannot use: one sentence, no traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What was expected, what came and what to do, in one sentence.

    The command lines print it and exit with a non-zero status; every other exception is a defect
    of ours and keeps its traceback.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a wrong `name` of some `kind`, with the near and the known names."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return InputError(f"Unknown {kind} {name!r}: {hint}The known ones are {', '.join(known)}.")


def unusable(kind: str, name: str, reason: str) -> InputError:
    """An `InputError` for an implementation that was asked for by name and cannot work here."""
    return InputError(
        f"The {kind} implementation '{name}' cannot be used: {reason}. Use 'auto', which takes "
        f"another one then."
    )
