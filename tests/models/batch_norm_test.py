"""BatchNorm for accelerators: Flax's layer, its derivatives and its second derivatives."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax.models import as_model
from reweight_jax.models.batch_norm import BatchNorm


def images(seed=0, shape=(8, 4, 4, 3)):
    """Features of different means and deviations."""
    x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return x * np.float32([1, 3, 0.5]) + np.float32([0, 2, -1])


def layer_of(kind, x, use_scale=True):
    """(loss of (variables, x), variables with a scale, if any, and a bias of their own)."""
    layer = kind(False, momentum=0.9, dtype=jnp.float32, use_scale=use_scale)
    variables = layer.init(jax.random.key(0), x)
    own = {"scale": jnp.arange(1.0, 4.0), "bias": jnp.arange(3.0)}
    variables["params"] = {name: own[name] for name in variables["params"]}
    target = jnp.sin(jnp.arange(x.size)).reshape(x.shape)

    def loss(variables, x):
        y, new = layer.apply(variables, x, mutable=["batch_stats"])
        return jnp.mean((y - target) ** 3, axis=(1, 2, 3)), new

    return loss, variables


def derivatives(kind, x, use_scale=True):
    """Of the per-example losses: values, tangent, gradient and a gradient of a tangent."""
    loss, variables = layer_of(kind, x, use_scale)
    params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}

    def losses(params, x):
        return loss({"params": params, **rest}, x)

    def tangent(params, x):
        return jax.jvp(lambda *a: losses(*a)[0], (params, x), (params, jnp.cos(x)))[1]

    gradient = jax.grad(lambda *a: losses(*a)[0].sum(), argnums=(0, 1))
    second = jax.grad(lambda *a: jnp.vdot(tangent(*a), jnp.arange(8.0)), argnums=(0, 1))
    return jax.jit(lambda *a: (losses(*a), tangent(*a), gradient(*a), second(*a)))(params, x)


@pytest.mark.parametrize("seed, use_scale", [(0, True), (1, True), (0, False)])
def test_it_is_the_layer_of_flax(seed, use_scale):
    x = images(seed)
    results = [derivatives(kind, x, use_scale) for kind in (BatchNorm, nn.BatchNorm)]
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_tangent():
    """Their inner products with each other's argument agree."""
    x = images()
    loss, variables = layer_of(BatchNorm, x)
    _, push = jax.linearize(lambda x: loss(variables, x)[0], x)
    tangent, weights = images(5), jnp.arange(8.0)
    (gradient,) = jax.linear_transpose(push, x)(weights)
    np.testing.assert_allclose(weights @ push(tangent), jnp.vdot(gradient, tangent), rtol=1e-4)


def test_a_feature_that_is_constant():
    x = images()
    x[..., 1] = 0.7
    (values, tangent, gradient, second) = derivatives(BatchNorm, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((values, gradient, second)))
    assert np.isfinite(tangent).all()
    assert (values[1]["batch_stats"]["var"] >= 0).all()


def test_derivatives_on_four_devices():
    """Of the parameters and of the inputs, as on one device; each has its share of the sums."""
    x, layer = images(), BatchNorm(False, momentum=0.9, dtype=jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    state = {"batch_stats": variables["batch_stats"]}

    def of(axis_name):
        on_axis = layer.clone(axis_name=axis_name)

        def loss(params, x, target):
            y, _ = on_axis.apply({"params": params, **state}, x, mutable=["batch_stats"])
            return jnp.sum((y - target) ** 3)

        def run(x, target):
            params, inputs = jax.grad(loss, argnums=(0, 1))(variables["params"], x, target)
            _, tangent = jax.jvp(lambda x: loss(variables["params"], x, target), (x,), (target,))
            total = (params, tangent)
            return (jax.lax.psum(total, axis_name) if axis_name else total), inputs

        return run

    target = images(3)
    (expected, tangent), inputs = jax.jit(of(None))(x, target)
    shares = (x.reshape(4, 2, 4, 4, 3), target.reshape(4, 2, 4, 4, 3))
    (params, tangents), parts = jax.pmap(of("batch"), "batch")(*shares)
    chex.assert_trees_all_close(jax.tree.map(lambda p: p[0], params), expected, rtol=1e-4)
    np.testing.assert_allclose(tangents[0], tangent, rtol=1e-4)
    np.testing.assert_allclose(parts.reshape(x.shape), inputs, rtol=1e-3, atol=1e-4)


def test_an_axis_from_the_outside():
    """`as_model` gives it the device axis, as it gives one to Flax's layer."""
    x = images()
    model = as_model(nn.Sequential([BatchNorm(False, dtype=jnp.float32), _Mean()]))
    split = as_model(nn.Sequential([BatchNorm(False, dtype=jnp.float32), _Mean()]), axis_name="b")
    params, state = model.init(jax.random.key(0), x)
    expected, _ = model.apply(params, state, x, train=True, key=jax.random.key(1))
    run = jax.pmap(lambda x: split.apply(params, state, x, train=True, key=jax.random.key(1)), "b")
    outputs, _ = run(x.reshape(4, 2, 4, 4, 3))
    np.testing.assert_allclose(outputs.reshape(8, 3), expected, rtol=1e-4, atol=1e-5)


class _Mean(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.mean(x, axis=(1, 2))
