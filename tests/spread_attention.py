"""Attention spread over eight devices, for the tests of what cannot be divided by the compiler."""

import json
import os
import subprocess
import sys
from typing import Any


def report(setup: str) -> dict[str, Any]:
    """What devices do: clips lie over data, windows over window and heads over model.

    `setup` is Python that defines `attend(qkv, bias)`, of the region ids `ids`, and adds to `local`
    the shapes that a device attends in. Returned are those, the relative errors of gradients and
    result beside `xla` on one device, and the kinds of collectives.
    """
    environment = dict(
        os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=8"
    )
    command = [sys.executable, "-c", PROGRAM.replace("SETUP", setup)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


PROGRAM = """
import functools, json, re, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from vswin_jax.attention import window_attention
jax.config.update("jax_disable_most_optimizations", True)
mesh = jax.make_mesh((2, 2, 2), ("data", "window", "model"), (AxisType.Auto,) * 3)
keys = jax.random.split(jax.random.key(0), 3)
qkv = jax.random.normal(keys[0], (2, 4, 9, 3, 4, 16))
bias = jax.random.normal(keys[1], (4, 9, 9))
ids = jax.random.randint(keys[2], (4, 9), 0, 3)
local = set()
SETUP
def gradients(attend):
    def loss(qkv, bias):
        out = attend(qkv, bias)
        return (out ** 2).sum(), out
    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))
xla = functools.partial(window_attention, region_ids=ids, implementation="xla")
wanted = gradients(xla)(qkv, bias)
with jax.set_mesh(mesh):
    placed = (
        jax.device_put(qkv, NamedSharding(mesh, P("data", "window", None, None, "model"))),
        jax.device_put(bias, NamedSharding(mesh, P("model"))),
    )
    compiled = gradients(attend).lower(*placed).compile()
    ours = compiled(*placed)
differ = lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
kinds = re.findall(r" (all-\\w+|collective-\\w+|reduce-scatter)(?:-start)?\\(", compiled.as_text())
print(json.dumps({
    "local": sorted(local),
    "errors": jax.tree.leaves(jax.tree.map(differ, ours, wanted)),
    "collectives": sorted(set(kinds)),
}))
"""
