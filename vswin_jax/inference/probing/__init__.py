"""Probes of features: the accuracy that they allow without any training of the model."""

from vswin_jax.inference.probing.probe import ProbeResult, probe
from vswin_jax.inference.probing.probe_data import ProbeData

__all__ = ["ProbeData", "ProbeResult", "probe"]
