"""The algorithm against numbers from other routes: numpy by hand, Jacobians, finite differences.

float64 tests run under the fixture `x64`: a wrong term then shows, however small it is.
"""

import functools
from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models
from flax.training import train_state
from jax.flatten_util import ravel_pytree

from reweight_jax import (
    ReweightState,
    epsilon_gradient,
    example_weights,
    normalize_weights,
    reweight_step,
)
from reweight_jax.reweight import select_params

SLOW = pytest.mark.slow  # of what takes long to compile, and differs from what is fast in little
both_methods = pytest.mark.parametrize("method", ["lookahead", "jvp"])


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def batches(network, n, m, seed=0):
    rng = np.random.default_rng(seed)
    return network.batch(rng, n), network.batch(rng, m)


def jitted(function, loss_fn, **kwargs):
    return jax.jit(functools.partial(function, loss_fn, **kwargs))


def step_from_params(loss_fn, params, batch, clean, *, tx=None, **kwargs):
    """`reweight_step` in the form of the other functions."""
    tx = tx or optax.sgd(0.1)
    state = ReweightState(params, tx.init(params))
    return reweight_step(state, batch, clean, loss_fn=loss_fn, tx=tx, **kwargs)


def logistic_by_hand(theta, batch):
    """Losses [n] and their gradients [n, 1 + d], bias first, as `ravel_pytree` orders them."""
    x = np.c_[np.ones(len(batch["y"])), batch["x"]].astype(np.float64)
    z = x @ theta
    return np.logaddexp(0, z) - batch["y"] * z, (sigmoid(z) - batch["y"])[:, None] * x


def weights_by_hand(gradients, clean_gradient):
    """Eq. 8-9 for an example's usefulness <grad f_i, grad of the clean loss>."""
    useful = np.maximum(gradients @ clean_gradient, 0)
    return useful / (useful.sum() or 1)


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


@pytest.mark.parametrize("network", ["lenet", "conv_net", "residual_net"])
def test_lookahead_and_jvp_agree_in_float32(network):
    assert_methods_agree(getattr(small_models, network)(), 1e-5)


@pytest.mark.parametrize("network", ["conv_net", "residual_net"])
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

    got = epsilon_gradient(bfloat16_losses, network.params, batch, clean, method=method)
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


def test_normalize_weights_over_the_global_batch():
    """One device has nothing helpful, and the sum is that of all four."""
    gradient = jnp.array([[-1.0, -2.0], [3.0, 1.0], [-4.0, 0.0], [-2.0, -1.0]])
    got = jax.pmap(functools.partial(normalize_weights, axis_name="batch"), axis_name="batch")
    expected = np.array([[0.1, 0.2], [0.0, 0.0], [0.4, 0.0], [0.2, 0.1]], np.float32)
    chex.assert_trees_all_close(got(gradient), expected, rtol=1e-6)
    chex.assert_trees_all_close(got(jnp.abs(gradient)), np.zeros((4, 2), np.float32))


def separable_batch(rng, n):
    """Examples whose right labels all pull logistic regression, at zero, the same way."""
    y = rng.integers(2, size=n)
    x = np.where(y, 1.0, -1.0)[:, None] * (1 + 0.2 * rng.normal(size=(n, 5)))
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


@both_methods
@pytest.mark.parametrize("num_right", [0, 1, 3])
def test_only_helpful_examples_count(num_right, method):
    """With none the weights and the loss are zero, plain SGD stays put, and nothing is NaN."""
    rng = np.random.default_rng(0)
    batch, clean = separable_batch(rng, 10), separable_batch(rng, 6)
    batch["y"][num_right:] = 1 - batch["y"][num_right:]
    params = {"kernel": jnp.zeros(5), "bias": jnp.zeros(())}
    clean_gradient = logistic_by_hand(np.zeros(6), clean)[1].mean(0)
    losses, gradients = logistic_by_hand(np.zeros(6), batch)
    usefulness = gradients @ clean_gradient
    assert (usefulness[:num_right] > 0).all() and (usefulness[num_right:] < 0).all()

    tx = optax.sgd(0.5)
    state, metrics = jitted(step_from_params, small_models.logistic_losses, tx=tx, method=method)(
        params, batch, clean
    )
    weights = weights_by_hand(gradients, clean_gradient)
    chex.assert_tree_all_finite((state, metrics))
    chex.assert_trees_all_close(metrics["weights"], weights.astype(np.float32), rtol=1e-5)
    chex.assert_trees_all_close(metrics["losses"], losses.astype(np.float32), rtol=1e-5)
    if num_right == 0:
        np.testing.assert_array_equal(metrics["weights"], 0)
        assert metrics["loss"] == 0
        chex.assert_trees_all_equal(state.params, params)
    else:
        np.testing.assert_allclose(metrics["loss"], np.log(2), rtol=1e-5)
        np.testing.assert_allclose(
            ravel_pytree(state.params)[0], -0.5 * weights @ gradients, rtol=1e-5, atol=1e-7
        )


# --- Lemma 1 --------------------------------------------------------------------------------------


@both_methods
@pytest.mark.parametrize("n, fraction", [(1, 0.99), (8, 0.99), (8, 0.99 / 8)])
def test_lemma_1_clean_loss_never_rises(x64, n, fraction, method):
    """Eq. 30's update, unnormalised, on labels of which 45% are wrong.

    Lemma 1 asks for alpha <= 2n / (L sigma^2). Its proof (Eq. 36) bounds |sum_i a_i|^2 by
    sum_i |a_i|^2, for which n times as much is needed: what holds for every batch is
    alpha <= 2 / (L sigma^2). (Clean examples x = 1 labelled 0 and 1, theta = -5, a batch of n = 8
    copies of the second: the lemma's 64 leads to theta = 26 and a clean loss of 13, from 2.5.)
    Both bounds are tried, the decrease that goes with the smaller one is checked step by step.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    y = (x @ np.array([1.0, -2.0, 0.5]) > 0).astype(np.float64)
    clean = {"x": x[:40], "y": y[:40].copy()}
    wrong = rng.permutation(400)[:180]
    y[wrong] = 1 - y[wrong]
    gradient_fn = jitted(
        epsilon_gradient, small_models.logistic_losses, method=method, lookahead_lr=1.0
    )

    ones_x = np.c_[np.ones(400), x]
    smoothness = np.linalg.eigvalsh(ones_x[:40].T @ ones_x[:40] / 40)[-1] / 4  # sigmoid' <= 1/4
    sigma_squared = (ones_x**2).sum(1).max()  # |sigmoid - y| <= 1
    alpha = fraction * 2 * n / (smoothness * sigma_squared)

    theta = 2 * rng.normal(size=4)
    clean_losses, uphill_batches = [logistic_by_hand(theta, clean)[0].mean()], 0
    for _ in range(200):
        chosen = rng.integers(400, size=n)
        batch = {"x": x[chosen], "y": y[chosen]}
        params = {"kernel": theta[1:], "bias": theta[0]}
        useful = np.maximum(-np.asarray(gradient_fn(params, batch, clean)), 0)
        gradients = logistic_by_hand(theta, batch)[1]
        uphill_batches += gradients.sum(0) @ logistic_by_hand(theta, clean)[1].mean(0) < 0
        theta = theta - alpha / n * useful @ gradients
        clean_losses.append(logistic_by_hand(theta, clean)[0].mean())
        sure_decrease = alpha / n * (useful**2).sum() * (1 - smoothness * alpha * sigma_squared / 2)
        assert clean_losses[-1] <= clean_losses[-2] - max(sure_decrease, 0) + 1e-14
    assert clean_losses[-1] < 0.7 * clean_losses[0]
    assert uphill_batches > 20  # steps on which equal weights would have raised the clean loss


# --- One step of Algorithm 1 ----------------------------------------------------------------------


def sgd_by_hand(gradient, memory):
    return -0.1 * gradient, None


def momentum_by_hand(gradient, memory):
    memory = gradient if memory is None else 0.9 * memory + gradient
    return -0.1 * memory, memory


def adam_by_hand(gradient, memory):
    first, second, t = (0, 0, 0) if memory is None else memory
    first, second, t = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2, t + 1
    corrected = first / (1 - 0.9**t), second / (1 - 0.999**t)
    return -0.01 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8), (first, second, t)


OPTIMIZERS = {
    "sgd": (optax.sgd(0.1), sgd_by_hand),
    "momentum": (optax.sgd(0.1, momentum=0.9), momentum_by_hand),
    "adam": (optax.adam(0.01), adam_by_hand),
}


@functools.cache
def network_and_jacobian(name):
    """A float64 network, and the Jacobian [n, P] of its losses by n reverse passes (jitted).

    In a batch with BatchNorm the gradient of sum_i w_i f_i is w @ Jacobian, as without.
    """
    network = getattr(small_models, name)(np.float64)
    unravel = ravel_pytree(network.params)[1]

    @jax.jit
    def jacobian(theta, model_state, key, batch):
        loss_fn = network.loss_fn(model_state, key)
        losses, model_state = loss_fn(unravel(theta), batch)
        return losses, jax.jacrev(lambda t: loss_fn(unravel(t), batch)[0])(theta), model_state

    if name == "logistic":
        return network, lambda theta, _, __, batch: (*logistic_by_hand(theta, batch), None)
    return network, jacobian


@both_methods
@pytest.mark.parametrize(
    "name, optimizer",
    [
        pytest.param(
            name, optimizer, marks=() if "logistic" in name or optimizer == "adam" else SLOW
        )
        for name in ("logistic", "residual_net", "nnx_net")
        for optimizer in OPTIMIZERS
    ],
)
def test_reweight_step_is_the_update_by_hand(x64, name, optimizer, method):
    """Three steps, on a key and batch statistics that change from step to step."""
    network, jacobian = network_and_jacobian(name)
    tx, update_by_hand = OPTIMIZERS[optimizer]

    @jax.jit
    def step(state, model_state, key, batch, clean):
        loss_fn = network.loss_fn(model_state, key)
        return reweight_step(state, batch, clean, loss_fn=loss_fn, tx=tx, method=method)

    state = ReweightState(network.params, tx.init(network.params))
    model_state, expected_model_state = network.model_state, network.model_state
    theta, memory = np.asarray(ravel_pytree(network.params)[0]), None
    for t in range(3):
        key = jax.random.key(t)
        batch, clean = batches(network, 6, 4, seed=t)
        state, metrics = step(state, model_state, key, batch, clean)
        model_state = metrics["aux"]

        losses, gradients, next_model_state = jacobian(theta, expected_model_state, key, batch)
        clean_gradient = np.mean(jacobian(theta, expected_model_state, key, clean)[1], 0)
        weights = weights_by_hand(np.asarray(gradients), clean_gradient)
        assert 0 < np.count_nonzero(weights)
        update, memory = update_by_hand(weights @ gradients, memory)
        theta, expected_model_state = theta + update, next_model_state

        assert isinstance(state, ReweightState)
        chex.assert_trees_all_close(ravel_pytree(state.params)[0], theta, rtol=1e-6, atol=1e-9)
        chex.assert_trees_all_close(metrics["weights"], weights, rtol=1e-6, atol=1e-9)
        chex.assert_trees_all_close(metrics["losses"], losses, rtol=1e-6, atol=1e-9)
        chex.assert_trees_all_close(metrics["loss"], weights @ losses, rtol=1e-6, atol=1e-9)
        # A plain forward pass in training mode on the training batch, and nothing else.
        chex.assert_trees_all_close(model_state, expected_model_state, rtol=1e-6, atol=1e-9)


@both_methods
def test_batch_statistics_by_hand(x64, method):
    """The running mean and variance move a tenth of the way to the training batch's."""
    network = small_models.nnx_net(np.float64)
    batch, clean = batches(network, 8, 5)
    clean = (clean[0] + 10, clean[1])  # would be seen
    loss_fn = network.loss_fn(network.model_state, None)
    _, metrics = jitted(step_from_params, loss_fn, method=method)(network.params, batch, clean)
    hidden = batch[0] @ np.asarray(network.params["hidden"]["kernel"][...])
    norm = metrics["aux"]["norm"]
    chex.assert_trees_all_close(norm["mean"][...], 0.1 * hidden.mean(0), rtol=1e-9)
    chex.assert_trees_all_close(norm["var"][...], 0.9 + 0.1 * hidden.var(0), rtol=1e-9)


@flax.struct.dataclass
class DataclassState:
    params: Any
    opt_state: Any
    step: Any


class TupleState(NamedTuple):
    step: Any
    opt_state: Any
    params: Any


@pytest.mark.parametrize("kind", ["ReweightState", "TrainState", "dataclass", "NamedTuple"])
def test_any_state_with_params_and_opt_state(kind):
    network = small_models.logistic()
    batch, clean = batches(network, 8, 6)
    tx = optax.sgd(0.1, momentum=0.9)
    params, opt_state = network.params, tx.init(network.params)
    state = {
        "ReweightState": lambda: ReweightState(params, opt_state),
        "TrainState": lambda: train_state.TrainState.create(apply_fn=len, params=params, tx=tx),
        "dataclass": lambda: DataclassState(params, opt_state, step=7),
        "NamedTuple": lambda: TupleState(7, opt_state, params),
    }[kind]()
    theta = np.asarray(ravel_pytree(params)[0], np.float64)
    memory = None
    for _ in range(2):
        new_state, _ = reweight_step(
            state, batch, clean, loss_fn=small_models.logistic_losses, tx=tx
        )
        assert type(new_state) is type(state)
        if kind != "ReweightState":
            assert new_state.step == state.step  # the caller's own
        if kind == "TrainState":
            assert new_state.tx is tx and new_state.apply_fn is len
        _, gradients = logistic_by_hand(theta, batch)
        weights = weights_by_hand(gradients, logistic_by_hand(theta, clean)[1].mean(0))
        update, memory = momentum_by_hand(weights @ gradients, memory)
        theta, state = theta + update, new_state
        np.testing.assert_allclose(ravel_pytree(state.params)[0], theta, rtol=1e-5, atol=1e-6)


@both_methods
def test_weight_decay_is_in_the_update_only(x64, method):
    network = small_models.logistic(np.float64)
    batch, clean = batches(network, 8, 6)
    tx = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    state, metrics = jitted(step_from_params, small_models.logistic_losses, tx=tx, method=method)(
        network.params, batch, clean
    )
    theta = np.asarray(ravel_pytree(network.params)[0])
    losses, gradients = logistic_by_hand(theta, batch)
    weights = weights_by_hand(gradients, logistic_by_hand(theta, clean)[1].mean(0))
    chex.assert_trees_all_close(metrics["weights"], weights, rtol=1e-10)
    chex.assert_trees_all_close(metrics["loss"], weights @ losses, rtol=1e-10)
    expected = theta - 0.1 * (weights @ gradients + 0.5 * theta)
    chex.assert_trees_all_close(ravel_pytree(state.params)[0], expected, rtol=1e-10)


# --- jit, scan, vmap, pmap ------------------------------------------------------------------------


@both_methods
@pytest.mark.parametrize("name", ["residual_net", pytest.param("nnx_net", marks=SLOW)])
def test_step_is_traced_once(name, method):
    chex.clear_trace_counter()
    network = getattr(small_models, name)()
    tx = optax.adam(1e-3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state, model_state, key, batch, clean):
        loss_fn = network.loss_fn(model_state, key)
        return reweight_step(state, batch, clean, loss_fn=loss_fn, tx=tx, method=method)

    state, model_state = ReweightState(network.params, tx.init(network.params)), network.model_state
    for t in range(4):
        batch, clean = batches(network, 6, 4, seed=t)
        state, metrics = step(state, model_state, jax.random.key(t), batch, clean)
        model_state = metrics["aux"]
    moved = ravel_pytree(state.params)[0] - ravel_pytree(network.params)[0]
    assert 1e-3 < jnp.max(jnp.abs(moved)) < 5e-3  # four steps of about 1e-3


@both_methods
def test_scan_over_steps_and_vmap_over_seeds(x64, method):
    """Two seeds, three steps, all in one program: the numbers of six single steps by hand."""
    network = small_models.logistic(np.float64)
    tx = optax.sgd(0.1, momentum=0.9)
    theta, unravel = ravel_pytree(network.params)
    thetas = np.stack([theta, -theta])
    seeds = [[batches(network, 6, 4, seed=10 * s + t) for t in range(3)] for s in range(2)]
    stacked = jax.tree.map(lambda *x: np.stack(x).reshape(2, 3, *x[0].shape), *seeds[0], *seeds[1])

    @jax.jit
    @jax.vmap
    def train(theta, steps):
        def step(state, step_batches):
            return reweight_step(
                state,
                *step_batches,
                loss_fn=small_models.logistic_losses,
                tx=tx,
                method=method,
            )

        params = unravel(theta)
        state, metrics = jax.lax.scan(step, ReweightState(params, tx.init(params)), steps)
        return ravel_pytree(state.params)[0], metrics["weights"]

    got_thetas, got_weights = train(thetas, stacked)
    for s, theta in enumerate(thetas):
        memory = None
        for t, (batch, clean) in enumerate(seeds[s]):
            _, gradients = logistic_by_hand(theta, batch)
            weights = weights_by_hand(gradients, logistic_by_hand(theta, clean)[1].mean(0))
            chex.assert_trees_all_close(got_weights[s, t], weights, rtol=1e-9, atol=1e-12)
            update, memory = momentum_by_hand(weights @ gradients, memory)
            theta = theta + update
        chex.assert_trees_all_close(got_thetas[s], theta, rtol=1e-9)


@both_methods
@pytest.mark.parametrize("clean_axis", [0, None], ids=["clean_sharded", "clean_replicated"])
def test_four_devices_are_one(x64, clean_axis, method):
    """Exactly, with BatchNorm over the axis: not only the weights, in which a factor cancels."""
    tx = optax.sgd(0.1, momentum=0.9)

    def everything(network, axis_name):
        loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
        kwargs = dict(method=method, axis_name=axis_name)

        def run(params, batch, clean):
            gradient = epsilon_gradient(loss_fn, params, batch, clean, lookahead_lr=0.5, **kwargs)
            weights = example_weights(loss_fn, params, batch, clean, **kwargs)
            state = ReweightState(params, tx.init(params))
            state, metrics = reweight_step(state, batch, clean, loss_fn=loss_fn, tx=tx, **kwargs)
            same_everywhere = state, metrics["loss"], metrics["aux"]
            return (gradient, weights, metrics["weights"], metrics["losses"]), same_everywhere

        return run

    one = small_models.residual_net(np.float64, dropout_rate=0.0)
    four = small_models.residual_net(np.float64, dropout_rate=0.0, axis_name="batch")
    batch, clean = batches(one, 8, 4)
    expected_shares, expected_same = jax.jit(everything(one, None))(one.params, batch, clean)

    def split(tree):
        return jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), tree)

    # out_axes 0 for what must be the same everywhere too: each of the four copies is looked at.
    shares, same = jax.pmap(
        everything(four, "batch"), axis_name="batch", in_axes=(None, 0, clean_axis)
    )(one.params, split(batch), clean if clean_axis is None else split(clean))
    chex.assert_trees_all_close(shares, split(expected_shares), rtol=1e-9, atol=1e-12)
    for device in range(4):
        copy = jax.tree.map(lambda x, device=device: x[device], same)
        chex.assert_trees_all_close(copy, expected_same, rtol=1e-9, atol=1e-12)


def test_the_step_returns_the_gradient_that_its_weights_come_from(x64):
    network = small_models.residual_net(np.float64, dropout_rate=0.0)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    batch, clean = batches(network, 8, 4)
    state = ReweightState(network.params, ())
    _, metrics = reweight_step(state, batch, clean, loss_fn=loss_fn, tx=optax.identity())
    expected = epsilon_gradient(loss_fn, network.params, batch, clean, method="jvp")
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
        per_example(network.params, examples)[1] for examples in (batch, clean)
    )
    expected = -kernel.reshape(7, -1) @ clean_kernel.mean(0).ravel()
    got = epsilon_gradient(
        small_models.mlp_losses, network.params, batch, clean, method=method, over="^1/0$"
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


# --- Several devices ------------------------------------------------------------------------------


def sharded_case():
    network = small_models.residual_net(np.float64, dropout_rate=0.0)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    return network, loss_fn, *batches(network, 8, 4)


@both_methods
@pytest.mark.parametrize(
    "shape", [pytest.param((4, 1), marks=SLOW), (2, 2), pytest.param((1, 4), marks=SLOW)], ids=str
)
def test_sharded_arguments_under_jit_are_one_device(x64, shape, method):
    """Data over one axis of a mesh, parameters over the other: the compiler adds what is needed."""
    network, loss_fn, batch, clean = sharded_case()
    tx = optax.sgd(0.1, momentum=0.9)
    state = ReweightState(network.params, tx.init(network.params))
    step = functools.partial(reweight_step, loss_fn=loss_fn, tx=tx, method=method)
    expected = jax.jit(step)(state, batch, clean)
    axis_types = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=axis_types)

    def by_features(leaf):
        divides = leaf.ndim > 0 and leaf.shape[-1] % shape[1] == 0
        spec = [None] * (leaf.ndim - 1) + ["model"] if divides else []
        return jax.device_put(leaf, jax.NamedSharding(mesh, jax.P(*spec)))

    by_rows = jax.NamedSharding(mesh, jax.P("data"))
    state = jax.tree.map(by_features, state)
    sizes = [(x.addressable_shards[0].data.size, x.size) for x in jax.tree.leaves(state.params)]
    assert (shape[1] > 1) == any(shard < whole for shard, whole in sizes)
    got = jax.jit(step)(state, jax.device_put(batch, by_rows), jax.device_put(clean, by_rows))
    chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-12)


@both_methods
def test_shard_map_is_one_device(x64, method):
    network, loss_fn, batch, clean = sharded_case()
    four = small_models.residual_net(np.float64, dropout_rate=0.0, axis_name="batch")
    four_loss_fn = four.loss_fn(four.model_state, jax.random.key(0))
    tx = optax.sgd(0.1, momentum=0.9)
    state = ReweightState(network.params, tx.init(network.params))
    kwargs = {"tx": tx, "method": method}
    expected, metrics = reweight_step(state, batch, clean, loss_fn=loss_fn, **kwargs)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

    def step(state, batch, clean):
        state, metrics = reweight_step(
            state, batch, clean, loss_fn=four_loss_fn, axis_name="batch", **kwargs
        )
        return state, metrics["loss"], metrics["weights"], metrics["epsilon_gradient"]

    specs = {"in_specs": (jax.P(), jax.P("batch"), jax.P("batch")), "check_vma": False}
    out_specs = (jax.P(), jax.P(), jax.P("batch"), jax.P("batch"))
    sharded = jax.jit(jax.shard_map(step, mesh=mesh, out_specs=out_specs, **specs))
    got_state, loss, weights, _ = sharded(state, batch, clean)
    chex.assert_trees_all_close(got_state, expected, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(loss, metrics["loss"], rtol=1e-9)
    chex.assert_trees_all_close(weights, metrics["weights"], rtol=1e-9, atol=1e-12)


# --- Errors ---------------------------------------------------------------------------------------


entry_points = pytest.mark.parametrize(
    "function", [epsilon_gradient, example_weights, step_from_params]
)


@entry_points
def test_unknown_method_lists_the_valid_ones(function):
    network, loss_fn = small_models.logistic(), small_models.logistic_losses
    with pytest.raises(ValueError, match="unknown method 'jpv'; valid: 'lookahead', 'jvp'"):
        function(loss_fn, network.params, *batches(network, 4, 4), method="jpv")


@entry_points
@both_methods
@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_loss_must_be_one_number_per_example(shape, method, function):
    network = small_models.logistic()

    def loss_fn(params, batch):
        losses, _ = small_models.logistic_losses(params, batch)
        return (jnp.mean(losses) if shape == () else losses[:, None]), None

    message = rf"one loss per example, shape \[n\]; it returned \({', '.join(map(str, shape))}\)"
    with pytest.raises(ValueError, match=message):
        function(loss_fn, network.params, *batches(network, 4, 4), method=method)
