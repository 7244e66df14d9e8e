"""The operations for XLA:CPU against those that they replace."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from reweight_jax.models.cpu import conv_general_dilated, materialize


@pytest.mark.parametrize("size", [(5, 5), (4, 4), (3, 2), (1, 1)])
@pytest.mark.parametrize("shape", [(3, 28, 28, 1), (2, 7, 6, 1), (2, 1, 9, 1), (2, 5, 5, 2)])
def test_planes_convolve_like_lax(shape, size):
    """Values, tangents and both gradients; two channels go to `jax.lax` itself."""
    keys = jax.random.split(jax.random.key(0), 3)
    reference = nn.Conv(4, size)
    conv = nn.Conv(4, size, conv_general_dilated=conv_general_dilated)
    image, image_tangent = (jax.random.normal(key, shape) for key in keys[:2])
    variables = reference.init(keys[2], image)
    tangents = (jax.tree.map(jnp.cos, variables), image_tangent)

    def derivatives(apply, variables, image):
        value, pushed = jax.jvp(apply, (variables, image), tangents)
        return value, pushed, jax.vjp(apply, variables, image)[1](jnp.sin(value))

    results = []
    for module in (reference, conv):
        results.append(jax.jit(functools.partial(derivatives, module.apply))(variables, image))
    chex.assert_trees_all_close(*results, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "stride, padding, dilation", [(2, "SAME", 1), (1, "VALID", 1), (1, 1, 1), (1, "SAME", 2)]
)
def test_planes_leave_other_convolutions_alone(stride, padding, dilation):
    image = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    modules = [
        nn.Conv(4, (3, 3), stride, padding, 1, dilation),
        nn.Conv(4, (3, 3), stride, padding, 1, dilation, conv_general_dilated=conv_general_dilated),
    ]
    variables = modules[0].init(jax.random.key(1), image)
    chex.assert_trees_all_equal(*(module.apply(variables, image) for module in modules))


def test_materialize_is_the_identity():
    x, tangent = jax.random.normal(jax.random.key(0), (2, 3, 4))
    chex.assert_trees_all_equal(jax.jvp(materialize, (x,), (tangent,)), (x, tangent))
    chex.assert_trees_all_equal(jax.vjp(materialize, x)[1](tangent), (tangent,))
    chex.assert_trees_all_equal(jax.vmap(materialize)(x), x)
    hessian = jax.hessian(lambda x: jnp.sum(materialize(x) ** 3))(x[0])
    chex.assert_trees_all_close(hessian, jnp.diag(6 * x[0]))


def test_a_residual_stage_computes_each_activation_once():
    """Without `materialize` the kernel gradients recompute the sums of all blocks before them."""
    depth = 6

    def loss(kernels, x):
        for kernel in kernels:
            variables = {"params": {"kernel": kernel}}
            x = nn.relu(x + nn.Conv(8, (3, 3), use_bias=False).apply(variables, x))
            x = materialize(x)
        return jnp.sum(x**2)

    kernels = [jnp.ones((3, 3, 8, 8))] * depth
    compiled = jax.jit(jax.grad(loss)).lower(kernels, jnp.ones((4, 8, 8, 8))).compile()
    assert len(re.findall(r" maximum\(", compiled.as_text())) == depth
