"""Max-pooling, in both of its forms, against Flax's."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax.models.pooling import max_pool_3x3

SHAPES = [(2, 28, 28, 3), (2, 7, 7, 4), (1, 8, 5, 2), (1, 2, 1, 1), (1, 3, 4, 1)]
FORMS = [functools.partial(max_pool_3x3, on_cpu=on_cpu) for on_cpu in (True, False)]
of_each_form = pytest.mark.parametrize("pool", FORMS, ids=["on_cpu", "on_accelerators"])


def reference(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


@functools.partial(jax.jit, static_argnums=0)
def derivatives(pool, x, tangent, cotangent):
    value, pull = jax.vjp(pool, x)
    return jax.jvp(pool, (x,), (tangent,)), value, pull(cotangent)


@of_each_form
@pytest.mark.parametrize("shape", SHAPES)
def test_pooling_value_and_derivatives(shape, pool):
    keys = jax.random.split(jax.random.key(0), 3)
    x, tangent = (jax.random.normal(key, shape) for key in keys[:2])  # no ties
    cotangent = jax.random.normal(keys[2], jax.eval_shape(reference, x).shape)

    (*exact, pulled), (*expected, expected_pulled) = (
        derivatives(function, x, tangent, cotangent) for function in (pool, reference)
    )
    chex.assert_trees_all_equal(exact, expected)
    # An input that is the maximum of several windows adds up their cotangents in another order.
    chex.assert_trees_all_close(pulled, expected_pulled, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_forms_choose_the_same_of_equal_maxima(shape):
    """Small integers, of which many are equal and whose sums are exact: bit for bit."""
    rng = np.random.default_rng(0)
    output = jax.eval_shape(reference, jnp.zeros(shape)).shape
    arrays = [jnp.float32(rng.integers(0, high, s)) for high, s in ((3, shape), (50, shape))]
    arrays.append(jnp.float32(rng.integers(0, 50, output)))
    chex.assert_trees_all_equal(*(derivatives(form, *arrays) for form in FORMS))


@of_each_form
def test_pooling_of_ties_shares_out_one_cotangent_a_window(pool):
    pulled = jax.jit(jax.grad(lambda x: jnp.sum(pool(x))))(jnp.zeros((1, 6, 6, 1)))
    assert float(jnp.sum(pulled)) == 9.0  # 3x3 windows, each giving exactly one
    assert set(np.unique(pulled)) <= {0.0, 1.0, 2.0, 4.0}


@of_each_form
def test_pooling_in_reverse_over_reverse(pool):
    x = jax.random.normal(jax.random.key(0), (1, 5, 5, 1))

    def gradient_of_gradient(function):
        inner = jax.grad(lambda x: jnp.sum(function(x) ** 3))
        return jax.jit(jax.grad(lambda x: jnp.sum(inner(x) ** 2)))(x)

    chex.assert_trees_all_close(
        gradient_of_gradient(pool), gradient_of_gradient(reference), rtol=1e-5
    )
