"""InputError, the one exception for wrong input: one sentence, no traceback."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence


class InputError(ValueError):
    """Wrong input, explained in one sentence: what was expected, what came, what to do.

    The command lines print the sentence and exit with a non-zero status. Every other exception is a
    defect of this package and keeps its traceback.

    Attributes:
      arguments: those that the sentence names, for `rename_arguments`.
    """

    def __init__(self, sentence: str, arguments: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.arguments = tuple(arguments)


@contextlib.contextmanager
def rename_arguments(names: Mapping[str, str]) -> Iterator[None]:
    """Rename the arguments that an `InputError` of the block, or of the decorated function, names.

    A function names its own arguments. The code that takes them from a config knows what the user
    typed: with {"eval_resize": "config.eval.resize"} the error names that setting.
    """
    try:
        yield
    except InputError as error:
        known = [re.escape(name) for name in error.arguments if name in names]
        if known:
            # What is in quotes is the user's own.
            pattern = rf"(?<!\w)'[^']*'|(?<![\w.])({'|'.join(known)})(?!\w)"
            text = re.sub(pattern, lambda found: names.get(found[1], found[0]), str(error))
            error.args = (text,)
            error.arguments = ()
        raise


def first_line(error: Exception, most: int | None = None) -> str:
    """Return the first line of an error of another library, at most `most` characters of it.

    It is the name of the error's type if the error has no text.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def join_some(items: Sequence[str], most: int) -> str:
    """Join the first `most` items with commas and count the others: "a, b and 3 more"."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def unknown_name(
    kind: str, name: str, known: Iterable[str], argument: str | None = None
) -> InputError:
    """Return an `InputError` for a wrong `name` of some `kind` that lists near and known names.

    `argument` is the one that the name was given as.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? The" if near else "the"
    ones = f"values of {argument}" if argument else "ones"
    return InputError(
        f"Unknown {kind} {name!r}: {hint} known {ones} are {', '.join(known)}.",
        [argument] if argument else (),
    )


def unusable(kind: str, name: str, reason: str) -> InputError:
    """Return an `InputError` for an implementation that is requested by name but cannot be used."""
    return InputError(
        f"The {kind} implementation '{name}' cannot be used: {reason}. Use 'auto', which then "
        f"chooses another one.",
        [kind],
    )
