"""Dry run: compiles the steps of a run ahead of time and reports their costs."""

import jax
from ml_collections import ConfigDict

from vswin_jax.analysis.dry_run.advice import advice
from vswin_jax.analysis.dry_run.combinations import first_combination
from vswin_jax.analysis.dry_run.divisible import make_divisible
from vswin_jax.analysis.dry_run.programs import (
    CompileResult,
    CompileTarget,
    compile_eval_step,
    compile_train_step,
)
from vswin_jax.analysis.dry_run.table import table
from vswin_jax.analysis.topologies import topology_devices
from vswin_jax.analysis.topology_names import parse_topology
from vswin_jax.sharding.mesh import mesh_from_config, num_batch_shards

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
      InputError: The topology is unknown, its compiler is not installed, or the mesh does not
        divide.
    """
    devices = topology_devices(topology) if topology else jax.devices()
    shards = num_batch_shards(mesh_from_config(config, devices))
    config, chosen = make_divisible(config, shards)
    target = CompileTarget.from_config(config, devices)
    results = [compile_train_step(target), compile_eval_step(target)]
    notes = [("chosen", sentence) for sentence in chosen]
    if topology:
        notes.insert(0, ("topology", _topology_words(topology, target)))
    text = table(target, results, notes)
    suggestions = [
        *advice(target, training=results[0], evaluation=results[1]),
        *filter(None, [first_combination(target, results[0])]),
    ]
    if suggestions:
        text += "\n\n" + "\n".join(("suggested changes", *(f"  - {line}" for line in suggestions)))
    return text, all(result.fits is not False for result in results)


def _topology_words(topology: str, target: CompileTarget) -> str:
    chips = target.mesh.size
    if target.chip is not None and target.chip.torus_axes:
        chips //= target.chip.devices_per_chip
        unit = "chip" if chips == 1 else "chips"
    else:
        unit = "GPU" if chips == 1 else "GPUs"
    return f"{parse_topology(topology)}, {chips} {unit}"
