"""Dry run: the programs of a run, compiled for devices that need not be there, and their price."""

import jax
from ml_collections import ConfigDict

from vswin_jax.analysis.dry_run.advice import advice
from vswin_jax.analysis.dry_run.programs import (
    Attempt,
    Subject,
    compile_eval_step,
    compile_train_step,
)
from vswin_jax.analysis.dry_run.table import table
from vswin_jax.analysis.topologies import topology_devices

__all__ = ["Attempt", "Subject", "compile_eval_step", "compile_train_step", "dry_run"]


def dry_run(config: ConfigDict, topology: str = "") -> tuple[str, bool]:
    """Compiles the steps of a config and says what they need.

    Args:
        topology: a TPU slice such as "v5e:16x16", for whose chips the TPU compiler compiles; "" is
            the devices of this machine.

    Returns:
        The table and what to change, as text; whether the steps fit, also where nobody knows.

    Raises:
        InputError: an unknown topology, no TPU compiler, a mesh or batch that does not divide.
    """
    devices = topology_devices(topology) if topology else jax.devices()
    subject = Subject.of(config, devices)
    attempts = [compile_train_step(subject), compile_eval_step(subject)]
    text = table(subject, attempts)
    suggestions = advice(subject, *attempts)
    if suggestions:
        text += "\n\n" + "\n".join(("what to change", *(f"  - {line}" for line in suggestions)))
    return text, all(attempt.fits is not False for attempt in attempts)
