"""Environments of processes whose programs compile quickly, as those of the tests do."""

import os
from pathlib import Path

# Most of the time that XLA needs for the small programs of the tests goes into its new emitters of
# fusions. Until jax 0.10 they can be left out; later versions ignore the option.
QUICK_XLA_FLAGS = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"


def device_environment(count: int) -> dict[str, str]:
    """Return the environment of a process with `count` CPU devices, which can import from tests."""
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {QUICK_XLA_FLAGS}",
    }
