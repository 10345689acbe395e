"""Selects and reorders the classes of a trained classifier by name."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.runtime.label_names import normalize_label_name, read_label_names

_KINETICS_400 = Path(__file__).parent / "labels" / "k400.txt"


def select_classes(
    kernel: np.ndarray,
    bias: np.ndarray,
    old_names: Sequence[str],
    new_names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of `kernel` `[classes, channels]` and `bias` `[classes]` for `new_names`.

    The rows come in the order of `new_names`, some or all of `old_names`, which name the rows.

    Raises:
      InputError: a new name is unknown (the message lists similar names) or repeated, or the old
        names do not name each row once.
    """
    old_names, new_names = ([*map(normalize_label_name, n)] for n in (old_names, new_names))
    _check_old_names(kernel, bias, old_names)
    repeated = sorted({name for name in new_names if list(new_names).count(name) > 1})
    if repeated:
        raise InputError(
            f"Expected each class once but the label file has {', '.join(map(repr, repeated))} "
            f"more than once: remove the repetitions."
        )
    rows = {name: row for row, name in enumerate(old_names)}
    unknown = [name for name in new_names if name not in rows]
    if unknown:
        raise _unknown_classes(unknown, old_names)
    chosen = [rows[name] for name in new_names]
    return kernel[chosen], bias[chosen]


def _check_old_names(kernel: np.ndarray, bias: np.ndarray, old_names: Sequence[str]) -> None:
    different = len(set(old_names))
    if not kernel.shape[:1] == bias.shape == (len(old_names),) == (different,):
        raise InputError(
            f"Expected a different name for each of the head's {bias.size} classes but "
            f"{len(old_names)} came, {different} of them different: give the label file "
            f"that the checkpoint was trained with."
        )


def _unknown_classes(names: Sequence[str], known: Sequence[str]) -> InputError:
    listed = []
    for name in names[:5]:
        similar = difflib.get_close_matches(name, known, n=2)
        hint = f" (near: {' or '.join(map(repr, similar))})" if similar else ""
        listed.append(repr(name) + hint)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return InputError(
        f"The checkpoint's head has no class {', '.join(listed)}{more}: correct the label file, or "
        f"omit it to train a fresh head."
    )


def known_class_names(num_classes: int) -> tuple[str, ...] | None:
    """Return the class names of Kinetics-400 for 400 classes; None for other counts."""
    if num_classes != 400:
        return None
    return read_label_names(_KINETICS_400)
