"""Damaged steps: said, passed over, and put aside where a run goes on without them."""

import logging
import os
from collections.abc import Mapping

import orbax.checkpoint as ocp
from etils import epath

from vswin_jax.checkpoint import manifest
from vswin_jax.checkpoint.step_directories import absolute, damage, steps_in
from vswin_jax.errors import InputError

log = logging.getLogger(__name__)

_DAMAGED = ".damaged"
_UNFINISHED = ocp.path.atomicity_types.TMP_DIR_SUFFIX


def latest_intact(root: str | os.PathLike[str]) -> epath.Path | None:
    """The place of the newest step without damage; None if there is no step at all.

    The log says which ones are passed over. Nothing is changed.

    Raises:
      InputError: there are steps, and all are damaged.
    """
    root = absolute(root)
    newest, damaged = _newest_intact(root)
    for step, reason in damaged.items():
        log.warning("%s: step %s is taken.", _damaged(root, step, reason), newest)
    return None if newest is None else root / str(newest)


def put_damaged_aside(root: epath.Path) -> None:
    """Says what is wrong in `root` and leaves only steps there that can be used.

    A damaged step is renamed, not deleted, so that the step can be saved again. Of those before
    the newest intact one only what is quick to read is looked at.

    Raises:
      InputError: there is no intact step, though there were steps; all is left as it is.
    """
    newest, damaged = _newest_intact(root)
    for step, place in steps_in(root).items():
        reason = damage(place, thorough=False) if newest is not None and step < newest else None
        damaged |= {step: reason} if reason else {}
    then = "the run starts anew" if newest is None else f"the run goes on from step {newest}"
    for step, reason in damaged.items():
        aside = _put_aside(root / str(step))
        log.warning(
            "%s: it is kept as '%s', and %s.", _damaged(root, step, reason), aside.name, then
        )
    _say_unfinished(root, then)
    if newest is not None:
        _say_strangers(root / str(newest))


def _newest_intact(root: epath.Path) -> tuple[int | None, dict[int, str]]:
    """The newest step without damage, and the damage of those after it."""
    damaged: dict[int, str] = {}
    for step, place in steps_in(root).items():
        reason = damage(place, thorough=True)
        if reason is None:
            return step, damaged
        damaged[step] = reason
    _refuse_to_start_anew(root, damaged)
    return None, damaged


def _refuse_to_start_anew(root: epath.Path, damaged: Mapping[int, str]) -> None:
    found = [f"step {step}: {reason}" for step, reason in damaged.items()]
    found += sorted(child.name for child in root.glob(f"*{_DAMAGED}*"))
    if found:
        raise InputError(
            f"No checkpoint in '{root}' is intact ({'; '.join(found)}): put one back from a copy, "
            f"or start anew in another workdir."
        )


def _damaged(root: epath.Path, step: int, reason: str) -> str:
    return f"The checkpoint of step {step} in '{root}' is damaged ({reason})"


def _put_aside(directory: epath.Path) -> epath.Path:
    aside = directory.with_name(directory.name + _DAMAGED)
    number = 1
    while aside.exists():
        number += 1
        aside = directory.with_name(f"{directory.name}{_DAMAGED}-{number}")
    return directory.rename(aside)


def _say_unfinished(root: epath.Path, then: str) -> None:
    for child in root.iterdir() if root.is_dir() else ():
        step, unfinished, _ = child.name.partition(_UNFINISHED)
        if unfinished:
            log.warning(
                "The save of step %s in '%s' was cut short: what it wrote is cleared away, and %s.",
                *(step, root, then),
            )


def _say_strangers(directory: epath.Path) -> None:
    if (directory / manifest.NAME).exists():
        for name in manifest.strangers(directory):
            log.warning("'%s' in '%s' is not of its save: it is left unread.", name, directory)
