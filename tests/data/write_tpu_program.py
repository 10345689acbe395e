"""Writes `tpu_program.txt`: every kind of collective as compiled by libtpu 0.0.50.

    pip install "jax[tpu]==0.12.0.1"
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python tests/data/write_tpu_program.py

Source locations and most of the compiler's annotations are left out.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

ANNOTATIONS = re.compile(r", (metadata|backend_config|frontend_attributes)=\{.*")
ASYNCHRONOUS = "async_collective_fusion_config"


def program(mesh: Mesh) -> str:
    """Compile a loop with FSDP, a resharding and a ring permutation for the chips of `mesh`."""
    rows, columns, whole = (
        NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("data",), (None, "data"), ())
    )
    x = jax.ShapeDtypeStruct((1024, 512), jnp.bfloat16, sharding=rows)
    weights = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=rows)

    def loss(weights: jax.Array, x: jax.Array) -> jax.Array:
        def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ weights.astype(x.dtype)), None

        return jnp.square(jax.lax.scan(layer, x, None, length=5)[0].astype(jnp.float32)).mean()

    def step(weights: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        value, gradient = jax.value_and_grad(loss)(weights, x)
        early = (x @ weights.astype(x.dtype)).astype(jnp.float32).sum()
        turned = jax.lax.with_sharding_constraint(x, columns) * 2
        ring = [(chip, (chip + 1) % 4) for chip in range(4)]
        passed = jax.shard_map(
            lambda x: jax.lax.ppermute(x, "data", ring),
            mesh=mesh,
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
        )(x)
        return value + early, weights - gradient, turned, passed

    compiled = jax.jit(step, out_shardings=(whole, rows, columns, rows), donate_argnums=0)
    return compiled.lower(weights, x).compile().as_text()


def main() -> None:
    """Write the file beside this script."""
    topology = topologies.get_topology_desc("v5e:2x2", "tpu")
    mesh = Mesh(np.array(topology.devices), ("data",), axis_types=(AxisType.Auto,))
    lines = program(mesh).splitlines()
    end = max(index for index, line in enumerate(lines) if line == "}") + 1
    kept = (line if ASYNCHRONOUS in line else ANNOTATIONS.sub("", line) for line in lines[:end])
    (Path(__file__).parent / "tpu_program.txt").write_text("\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
