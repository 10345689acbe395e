"""Attention sharded over eight devices, for tests of kernels that the compiler cannot split."""

import json
import subprocess
import sys
from typing import Any

from cheap_programs import device_environment


def report(setup: str) -> dict[str, Any]:
    """Run attention with clips sharded over data, windows over window and heads over model.

    `setup` is Python that defines `attend(qkv, bias)`, using the segment ids `ids`, and adds the
    shapes that one device processes to `local`. The report has these shapes, the relative errors
    of gradients and result against `xla` on one device, and the kinds of collectives.
    """
    environment = device_environment(8)
    command = [sys.executable, "-c", PROGRAM.replace("SETUP", setup)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


PROGRAM = """
import functools, json, re, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from vswin_jax.attention import window_attention
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
xla = functools.partial(window_attention, segment_ids=ids, implementation="xla")
expected = gradients(xla)(qkv, bias)
with jax.set_mesh(mesh):
    operands = (
        jax.device_put(qkv, NamedSharding(mesh, P("data", "window", None, None, "model"))),
        jax.device_put(bias, NamedSharding(mesh, P("model"))),
    )
    compiled = gradients(attend).lower(*operands).compile()
    ours = compiled(*operands)
relative_error = lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
kinds = re.findall(r" (all-\\w+|collective-\\w+|reduce-scatter)(?:-start)?\\(", compiled.as_text())
print(json.dumps({
    "local": sorted(local),
    "errors": jax.tree.leaves(jax.tree.map(relative_error, ours, expected)),
    "collectives": sorted(set(kinds)),
}))
"""
