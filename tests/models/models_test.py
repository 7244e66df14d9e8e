"""LeNet and its pooling, against Flax's `reduce_window` pooling and hand-counted sizes."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax.models.lenet import LeNet
from reweight_jax.models.pooling import max_pool_3x3

SHAPES = [(2, 28, 28, 3), (2, 7, 7, 4), (1, 8, 5, 2), (1, 2, 1, 1), (1, 3, 4, 1)]


def reference(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


@pytest.mark.parametrize("shape", SHAPES)
def test_pooling_value_and_derivatives(shape):
    keys = jax.random.split(jax.random.key(0), 3)
    x, tangent = (jax.random.normal(key, shape) for key in keys[:2])  # no ties
    value, pushed = jax.jvp(max_pool_3x3, (x,), (tangent,))
    expected, expected_pushed = jax.jvp(reference, (x,), (tangent,))
    chex.assert_trees_all_equal(value, expected)
    chex.assert_trees_all_equal(pushed, expected_pushed)
    cotangent = jax.random.normal(keys[2], value.shape)
    pulled = jax.vjp(max_pool_3x3, x)[1](cotangent)
    expected_pulled = jax.vjp(reference, x)[1](cotangent)
    # An input that is the maximum of several windows adds up their cotangents in another order.
    chex.assert_trees_all_close(pulled, expected_pulled, rtol=1e-6, atol=1e-6)


def test_pooling_of_ties_shares_out_one_cotangent_a_window():
    pulled = jax.grad(lambda x: jnp.sum(max_pool_3x3(x)))(jnp.zeros((1, 6, 6, 1)))
    assert float(jnp.sum(pulled)) == 9.0  # 3x3 windows, each giving exactly one
    assert set(np.unique(pulled)) <= {0.0, 1.0, 2.0, 4.0}


def test_pooling_in_reverse_over_reverse():
    x = jax.random.normal(jax.random.key(0), (1, 5, 5, 1))

    def hessian_trace(pool):
        return jax.grad(lambda x: jnp.sum(jax.grad(lambda y: jnp.sum(pool(y) ** 3))(x) ** 2))(x)

    chex.assert_trees_all_close(hessian_trace(max_pool_3x3), hessian_trace(reference), rtol=1e-5)


@pytest.mark.parametrize("num_classes, outputs", [(2, 1), (3, 3), (10, 10)])
def test_lenet_sizes(num_classes, outputs):
    model = LeNet(num_classes)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)
    # 28 -> 14 -> 7 -> 4 by pooling: 4 * 4 * 64 = 1,024 inputs to the 100 units.
    convolutions = (25 * 1 + 1) * 16 + (25 * 16 + 1) * 32 + (25 * 32 + 1) * 64
    expected = convolutions + (1024 + 1) * 100 + (100 + 1) * outputs
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected
    logits = model.apply(variables, jnp.ones((5, 28, 28, 1)), train=True)
    chex.assert_shape(logits, (5, num_classes))


def test_two_class_lenet_is_a_sigmoid_of_one_logit():
    model = LeNet(2)
    x = jax.random.uniform(jax.random.key(1), (4, 28, 28, 1))
    variables = model.init(jax.random.key(0), x, train=False)
    logits = model.apply(variables, x, train=False)
    chex.assert_trees_all_equal(logits[:, 0], jnp.zeros(4))
    assert np.abs(logits[:, 1]).min() > 0
    chex.assert_trees_all_close(
        jax.nn.softmax(logits)[:, 1], 1 / (1 + np.exp(-np.asarray(logits[:, 1]))), rtol=1e-6
    )


def test_lenet_initialisation_is_a_truncated_normal():
    kernel = LeNet(2).init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)["params"][
        "Dense_0"
    ]["kernel"]
    # A normal of 0.1 cut at two standard deviations has 0.8796 of its standard deviation left.
    assert abs(float(kernel.std()) - 0.08796) < 5e-4
    assert 0.19 < float(jnp.abs(kernel).max()) <= 0.2


def test_lenet_in_bfloat16_keeps_float32_parameters_and_logits():
    model = LeNet(2, jnp.bfloat16)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)
    chex.assert_trees_all_equal_dtypes(*jax.tree.leaves(variables), jnp.float32(0))
    x = jax.random.uniform(jax.random.key(1), (4, 28, 28, 1))
    logits = model.apply(variables, x, train=False)
    assert logits.dtype == jnp.float32
    full = LeNet(2).apply(variables, x, train=False)
    chex.assert_trees_all_close(logits, full, atol=0.05)
    assert not np.array_equal(logits, full)
