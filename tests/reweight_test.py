"""The weights against numbers from other routes: numpy by hand, Jacobians, finite differences.

float64 tests run under the fixture `x64`: a wrong term then shows, however small it is.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models
from by_hand import batches, both_methods, jitted, logistic_by_hand
from jax.flatten_util import ravel_pytree

from reweight_jax import (
    ReweightState,
    epsilon_gradient,
    example_weights,
    normalize_weights,
    reweight_step,
)
from reweight_jax.trees import select_params

# --- The epsilon gradient, Eq. 4-7 ----------------------------------------------------------------


@both_methods
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_epsilon_gradient_of_logistic_regression(dtype, rtol, method):
    with jax.enable_x64(dtype == np.float64):
        network = small_models.logistic(dtype)
        batch, clean = batches(network, 12, 7)
        theta, _ = ravel_pytree(network.params)
        clean_gradient = logistic_by_hand(theta, clean)[1].mean(0)
        expected = -0.7 * logistic_by_hand(theta, batch)[1] @ clean_gradient
        got = jitted(
            epsilon_gradient, small_models.logistic_losses, method=method, lookahead_lr=0.7
        )(network.params, batch, clean)
        assert got.dtype == dtype
        chex.assert_trees_all_close(got, expected.astype(dtype), rtol=rtol, atol=rtol)


def mlp_by_hand(params, batch):
    """Backpropagation: each layer's inputs, with a constant 1 for the bias, and its deltas g_l."""
    x, label = batch
    inputs, deltas = [], []
    for kernel, bias in params:
        inputs.append(np.c_[x, np.ones(len(x))])
        x = np.tanh(x @ kernel + bias)
    logits = inputs[-1] @ np.r_[params[-1][0], params[-1][1][None]]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = probabilities - np.eye(logits.shape[1])[label]
    for (kernel, _), layer_input in zip(reversed(params), reversed(inputs), strict=True):
        deltas.insert(0, delta)
        delta = delta @ kernel.T * (1 - layer_input[:, :-1] ** 2)  # tanh' = 1 - tanh^2
    return inputs, deltas


@both_methods
def test_epsilon_gradient_is_equation_12(x64, method):
    network = small_models.mlp(np.float64)
    batch, clean = batches(network, 9, 5)
    params = jax.tree.map(np.asarray, network.params)
    inputs, deltas = mlp_by_hand(params, batch)
    clean_inputs, clean_deltas = mlp_by_hand(params, clean)
    expected = np.zeros(9)
    for layer in range(3):
        for j in range(5):
            z_product = inputs[layer] @ clean_inputs[layer][j]
            g_product = deltas[layer] @ clean_deltas[layer][j]
            expected -= z_product * g_product / 5
    got = jitted(epsilon_gradient, small_models.mlp_losses, method=method)(
        network.params, batch, clean
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-11)


@both_methods
def test_epsilon_gradient_is_minus_inner_products(method):
    network = small_models.conv_net()
    batch, clean = batches(network, 8, 6)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))

    @jax.jit
    def inner_products(params, batch, clean):
        def gradient(example):  # of one example alone: right where examples do not mix
            alone = jax.tree.map(lambda x: x[None], example)
            return ravel_pytree(jax.grad(lambda p: loss_fn(p, alone)[0][0])(params))[0]

        return jax.vmap(gradient)(batch) @ jnp.mean(jax.vmap(gradient)(clean), 0)

    expected = -inner_products(network.params, batch, clean)
    got = jitted(epsilon_gradient, loss_fn, method=method)(network.params, batch, clean)
    atol = 1e-5 * np.abs(expected).max()
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=atol)


@both_methods
def test_epsilon_gradient_is_finite_difference(x64, method):
    """With BatchNorm, where the examples of a batch share in each other's losses, and dropout."""
    network = small_models.residual_net(np.float64)
    batch, clean = batches(network, 6, 5)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(3))
    lookahead_lr = 0.3

    @jax.jit
    def clean_loss_after_lookahead(epsilon):
        gradient = jax.grad(lambda p: jnp.dot(epsilon, loss_fn(p, batch)[0]))(network.params)
        theta = jax.tree.map(lambda p, g: p - lookahead_lr * g, network.params, gradient)
        return jnp.mean(loss_fn(theta, clean)[0])

    h = 1e-5
    expected = np.array(
        [
            (clean_loss_after_lookahead(h * e) - clean_loss_after_lookahead(-h * e)) / (2 * h)
            for e in np.eye(6)
        ]
    )
    got = jitted(epsilon_gradient, loss_fn, method=method, lookahead_lr=lookahead_lr)(
        network.params, batch, clean
    )
    assert (got < 0).any() and (got > 0).any()  # both kinds of example
    chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("network", [pytest.param("lenet", marks=pytest.mark.slow), "residual_net"])
def test_lookahead_and_jvp_agree_in_float32(network):
    assert_methods_agree(getattr(small_models, network)(), 1e-5)


@pytest.mark.parametrize(
    "network", ["conv_net", pytest.param("residual_net", marks=pytest.mark.slow)]
)
def test_lookahead_and_jvp_agree_in_float64(x64, network):
    assert_methods_agree(getattr(small_models, network)(np.float64), 1e-10)


def assert_methods_agree(network, tolerance):
    batch, clean = batches(network, 16, 8)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(1))
    lookahead, jvp = (
        jitted(example_weights, loss_fn, method=method)(network.params, batch, clean)
        for method in ("lookahead", "jvp")
    )
    assert jnp.max(lookahead) > 0
    chex.assert_trees_all_close(lookahead, jvp, rtol=0, atol=tolerance * float(jnp.max(lookahead)))


@both_methods
def test_lookahead_lr_scales_gradient_and_cancels_in_weights(x64, method):
    network = small_models.nnx_net(np.float64)
    batch, clean = batches(network, 8, 6)
    loss_fn = network.loss_fn(network.model_state, None)

    @jax.jit
    def both(lookahead_lr):
        arguments = (loss_fn, network.params, batch, clean)
        gradient = epsilon_gradient(*arguments, method=method, lookahead_lr=lookahead_lr)
        return gradient, example_weights(*arguments, method=method, lookahead_lr=lookahead_lr)

    gradient, weights = both(1.0)
    chex.assert_trees_all_close(
        weights, np.maximum(-gradient, 0) / np.maximum(-gradient, 0).sum(), rtol=1e-12
    )
    for lookahead_lr in (1e-3, 2.0, 300.0):
        scaled, same = both(lookahead_lr)
        chex.assert_trees_all_close(scaled, lookahead_lr * gradient, rtol=1e-9, atol=1e-16)
        chex.assert_trees_all_close(same, weights, rtol=1e-9, atol=1e-16)


@both_methods
def test_epsilon_gradient_has_the_dtype_of_the_losses(method):
    network = small_models.logistic()
    batch, clean = batches(network, 12, 7)

    def bfloat16_losses(params, batch):
        return small_models.logistic_losses(params, batch)[0].astype(jnp.bfloat16), None

    got = jitted(epsilon_gradient, bfloat16_losses, method=method)(network.params, batch, clean)
    assert got.dtype == jnp.bfloat16
    theta, _ = ravel_pytree(network.params)
    clean_gradient = logistic_by_hand(theta, clean)[1].mean(0)
    expected = -logistic_by_hand(theta, batch)[1] @ clean_gradient
    # bfloat16 keeps 8 bits; the clean mean and the derivatives of the losses are rounded to it.
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0.03, atol=0.01)


# --- The weights, Eq. 8-9 -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gradient, expected",
    [
        ([-1.0, -3.0, 4.0, 0.0], [0.25, 0.75, 0.0, 0.0]),
        ([0.5, 2.0, 1e-3], [0.0, 0.0, 0.0]),  # nobody is helpful: delta(.) of Eq. 9
        ([0.0, 0.0], [0.0, 0.0]),
        ([5.0, -2.0, 7.0], [0.0, 1.0, 0.0]),
        ([-1e-30, -3e-30, 1.0], [0.25, 0.75, 0.0]),  # an added 1e-8, say, would make these zero
        ([-1e30, -1e-30], [1.0, 0.0]),
        ([-0.5], [1.0]),
        ([np.nan, -1.0, np.inf, -3.0, -np.inf], [0.0, 0.25, 0.0, 0.75, 0.0]),  # of bad losses
    ],
)
def test_normalize_weights(gradient, expected):
    got = normalize_weights(jnp.array(gradient, jnp.float32))
    chex.assert_trees_all_close(got, np.array(expected, np.float32), rtol=1e-6)


def test_normalize_weights_sum_to_one():
    gradient = np.random.default_rng(0).normal(size=(50, 100)).astype(np.float32)
    for row in gradient * 10.0 ** np.linspace(-25, 25, 50, dtype=np.float32)[:, None]:
        weights = np.asarray(normalize_weights(row), np.float64)
        assert (weights >= 0).all()
        np.testing.assert_array_equal(weights > 0, row < 0)
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)


def test_the_step_returns_the_gradient_that_its_weights_come_from(x64):
    network = small_models.residual_net(np.float64, dropout_rate=0.0)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    batch, clean = batches(network, 8, 4)
    state = ReweightState(network.params, ())
    step = functools.partial(reweight_step, loss_fn=loss_fn, tx=optax.identity())
    _, metrics = jax.jit(step)(state, batch, clean)
    expected = jitted(epsilon_gradient, loss_fn, method="jvp")(network.params, batch, clean)
    chex.assert_trees_all_close(metrics["epsilon_gradient"], expected, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(metrics["weights"], normalize_weights(expected), rtol=1e-9)


@both_methods
def test_over_some_of_the_parameters(x64, method):
    """Against gradients by `vmap(grad)`, whose other entries are left out by hand."""
    network = small_models.mlp(np.float64)
    batch, clean = batches(network, 7, 5)

    def one_loss(params, example):
        lifted = jax.tree.map(lambda x: x[None], example)
        return small_models.mlp_losses(params, lifted)[0][0]

    per_example = jax.vmap(jax.grad(one_loss), (None, 0))
    (kernel, _), (clean_kernel, _) = (
        jax.jit(per_example)(network.params, examples)[1] for examples in (batch, clean)
    )
    expected = -kernel.reshape(7, -1) @ clean_kernel.mean(0).ravel()
    got = jitted(epsilon_gradient, small_models.mlp_losses, method=method, over="^1/0$")(
        network.params, batch, clean
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="'kernel' matches none of the parameters: 0/0, 0/1, 1/0"):
        epsilon_gradient(small_models.mlp_losses, network.params, batch, clean, over="kernel")


def test_select_params_puts_others_in_place():
    params = {"a": {"kernel": 1, "bias": 2}, "b": {"kernel": 3}}
    part, join = select_params(params, "kernel$")
    assert part == {"a/kernel": 1, "b/kernel": 3}
    assert join({"a/kernel": 5, "b/kernel": 6}) == {
        "a": {"kernel": 5, "bias": 2},
        "b": {"kernel": 6},
    }
