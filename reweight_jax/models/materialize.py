"""Keeps XLA's CPU backend from computing a residual network's activations again and again.

The gradient of a convolution's kernel reads the convolution's input transposed. XLA fuses the
elementwise operations that made this input into the transposition, and along the residual
connections of a stage these reach back to its first block: every kernel gradient then recomputes
all normalised sums before it, in an order that no cache likes. The cost grows with the square of
the depth: more than half of a ResNet-32 step. A computation that XLA must not inline is a border
that fusion does not cross, and what comes out of it is computed once.
"""

import jax
from jax.experimental.xla_metadata import set_xla_metadata


@jax.custom_jvp
def materialize(x: jax.Array) -> jax.Array:
    """Returns `x`, computed once however many operations read it. On accelerators `x` as it is."""
    if jax.default_backend() != "cpu":
        return x
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)  # XLA would see through `lambda x: x`


@materialize.defjvp
def _materialize_jvp(primals, tangents):
    return materialize(*primals), tangents[0]
