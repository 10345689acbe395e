"""Dry run: compiles the steps of a run ahead of time and reports their costs."""

import jax
from ml_collections import ConfigDict

from vswin_jax.analysis.dry_run.advice import advice
from vswin_jax.analysis.dry_run.programs import (
    CompileResult,
    CompileTarget,
    compile_eval_step,
    compile_train_step,
)
from vswin_jax.analysis.dry_run.table import table
from vswin_jax.analysis.topologies import topology_devices

__all__ = ["CompileResult", "CompileTarget", "compile_eval_step", "compile_train_step", "dry_run"]


def dry_run(config: ConfigDict, topology: str = "") -> tuple[str, bool]:
    """Compile the steps of a config and report their costs per device.

    Args:
      config: The config of the run.
      topology: A topology to compile for, such as "v5e:16x16" or "h200:8"; "" for the devices of
        this machine.

    Returns:
      The table and the suggested changes, as text; and False if a step does not fit the memory of a
      device, else True, also if that memory is unknown.

    Raises:
      InputError: The topology is unknown, its compiler is not installed, or the mesh or the batch
        does not divide.
    """
    devices = topology_devices(topology) if topology else jax.devices()
    target = CompileTarget.from_config(config, devices)
    results = [compile_train_step(target), compile_eval_step(target)]
    text = table(target, results)
    suggestions = advice(target, training=results[0], evaluation=results[1])
    if suggestions:
        text += "\n\n" + "\n".join(("suggested changes", *(f"  - {line}" for line in suggestions)))
    return text, all(result.fits is not False for result in results)
