"""The classifier when classes change: a subset of them, or the same in another order."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vswin_jax.errors import InputError

_KINETICS_400 = Path(__file__).parent / "labels" / "k400.txt"


def select_classes(
    kernel: np.ndarray,
    bias: np.ndarray,
    old_names: Sequence[str],
    new_names: Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a head that belong to `new_names`, in their order.

    Args:
      kernel: `[classes, channels]`, PyTorch's axes.
      bias: `[classes]`.
      old_names: of the rows.
      new_names: some or all of `old_names`, in any order.

    Returns:
      `[len(new_names), channels]` and `[len(new_names)]`.

    Raises:
      InputError: a new name is none of the old ones (near ones are said) or comes twice, or the
        old ones do not name each row once.
    """
    different = len(set(old_names))
    if not kernel.shape[:1] == bias.shape == (len(old_names),) == (different,):
        raise InputError(
            f"Expected a different name for each of the head's {bias.size} classes but "
            f"{len(old_names)} came, {different} of them different: give the label file "
            f"that the checkpoint was trained with."
        )
    twice = sorted({name for name in new_names if list(new_names).count(name) > 1})
    if twice:
        raise InputError(
            f"Expected each class once but the label file has {', '.join(map(repr, twice))} more "
            f"than once: take the repeats out."
        )
    rows = {name: row for row, name in enumerate(old_names)}
    missing = [name for name in new_names if name not in rows]
    if missing:
        raise _missing(missing, old_names)
    chosen = [rows[name] for name in new_names]
    return kernel[chosen], bias[chosen]


def _missing(names: Sequence[str], known: Sequence[str]) -> InputError:
    said = []
    for name in names[:5]:
        near = difflib.get_close_matches(name, known, n=2)
        said.append(repr(name) + (f" (near: {' or '.join(map(repr, near))})" if near else ""))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return InputError(
        f"The checkpoint's head does not know {', '.join(said)}{more}: correct the label file, or "
        f"leave it out to train a fresh head."
    )


def known_names(num_classes: int) -> tuple[str, ...] | None:
    """The names that a released head of this size has: Kinetics-400's for 400, else None."""
    if num_classes != 400:
        return None
    lines = _KINETICS_400.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
