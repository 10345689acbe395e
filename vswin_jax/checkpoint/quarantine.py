"""Damaged steps: readers skip them, and a run that resumes renames them."""

import logging
import os
from collections.abc import Mapping

from etils import epath

from vswin_jax.checkpoint import manifest
from vswin_jax.checkpoint.step_directories import absolute_path, find_damage, steps_in
from vswin_jax.errors import InputError
from vswin_jax.runtime.lazy_module import LazyModule

ocp = LazyModule("orbax.checkpoint")

log = logging.getLogger(__name__)

_DAMAGED = ".damaged"


def latest_intact(root: str | os.PathLike[str]) -> epath.Path | None:
    """Return the directory of the newest undamaged step; None if there is no step at all.

    Newer, damaged steps are logged. Nothing on disk is changed.

    Raises:
      InputError: there are steps, and all are damaged.
    """
    root = absolute_path(root)
    newest, damaged = _newest_intact(root)
    for step, reason in damaged.items():
        log.warning("%s: step %s is used.", _damage_message(root, step, reason), newest)
    return None if newest is None else root / str(newest)


def quarantine(root: epath.Path) -> None:
    """Log the damage in `root`, and rename damaged steps so that only usable ones remain.

    They are not deleted; the rename makes their numbers free to be saved again. Steps older than
    the newest intact one get the quick check only.

    Raises:
      InputError: there are steps but none is intact; nothing is renamed.
    """
    newest, damaged = _newest_intact(root)
    damaged |= {} if newest is None else _damage_before(root, newest)
    consequence = "the run starts over" if newest is None else f"the run resumes from step {newest}"
    for step, reason in damaged.items():
        renamed = _rename(root / str(step))
        message = _damage_message(root, step, reason)
        log.warning("%s: it is kept as '%s', and %s.", message, renamed.name, consequence)
    _warn_of_unfinished(root, consequence)
    if newest is not None:
        _warn_of_unexpected_files(root / str(newest))


def _newest_intact(root: epath.Path) -> tuple[int | None, dict[int, str]]:
    """Return the newest undamaged step, and the damage of the steps after it."""
    damaged: dict[int, str] = {}
    for step, directory in steps_in(root).items():
        reason = find_damage(directory, thorough=True)
        if reason is None:
            return step, damaged
        damaged[step] = reason
    _refuse_to_start_over(root, damaged)
    return None, damaged


def _damage_before(root: epath.Path, newest: int) -> dict[int, str]:
    """Return the damage, by the quick check, of the steps before `newest`."""
    older = {step: directory for step, directory in steps_in(root).items() if step < newest}
    reasons = {step: find_damage(path, thorough=False) for step, path in older.items()}
    return {step: reason for step, reason in reasons.items() if reason}


def _refuse_to_start_over(root: epath.Path, damaged: Mapping[int, str]) -> None:
    found = [f"step {step}: {reason}" for step, reason in damaged.items()]
    found += sorted(child.name for child in root.glob(f"*{_DAMAGED}*"))
    if found:
        raise InputError(
            f"No checkpoint in '{root}' is intact ({'; '.join(found)}): restore one from a copy, "
            f"or start over in another workdir."
        )


def _damage_message(root: epath.Path, step: int, reason: str) -> str:
    return f"The checkpoint of step {step} in '{root}' is damaged ({reason})"


def _rename(directory: epath.Path) -> epath.Path:
    renamed = directory.with_name(directory.name + _DAMAGED)
    number = 1
    while renamed.exists():
        number += 1
        renamed = directory.with_name(f"{directory.name}{_DAMAGED}-{number}")
    return directory.rename(renamed)


def _warn_of_unfinished(root: epath.Path, consequence: str) -> None:
    """Log the saves that a kill interrupted; Orbax deletes their files when it opens `root`."""
    for child in root.iterdir() if root.is_dir() else ():
        step, unfinished, _ = child.name.partition(ocp.path.atomicity_types.TMP_DIR_SUFFIX)
        if unfinished:
            log.warning(
                "The save of step %s in '%s' was interrupted: its files are deleted, and %s.",
                step,
                root,
                consequence,
            )


def _warn_of_unexpected_files(directory: epath.Path) -> None:
    if (directory / manifest.NAME).exists():
        for name in manifest.unexpected_files(directory):
            log.warning("'%s' in '%s' is not a file of its save: it is ignored.", name, directory)
