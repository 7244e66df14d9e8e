"""One step of Algorithm 1 and many: against updates by hand, in numpy or by Jacobians."""

import dataclasses
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
from by_hand import (
    adam_by_hand,
    batches,
    both_methods,
    jitted,
    logistic_by_hand,
    momentum_by_hand,
    sgd_by_hand,
    step_from_params,
    weights_by_hand,
)
from flax.training import train_state
from jax.flatten_util import ravel_pytree

from reweight_jax import (
    ReweightState,
    reweight_step,
)

SLOW = pytest.mark.slow  # of what takes long to compile, and differs from what is fast in little


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


@dataclasses.dataclass
class PlainState:
    params: Any
    opt_state: Any
    step: Any


KINDS = ["ReweightState", "TrainState", "flax dataclass", "dataclass", "NamedTuple"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_state_with_params_and_opt_state(kind):
    network = small_models.logistic()
    batch, clean = batches(network, 8, 6)
    tx = optax.sgd(0.1, momentum=0.9)
    params, opt_state = network.params, tx.init(network.params)
    state = {
        "ReweightState": lambda: ReweightState(params, opt_state),
        "TrainState": lambda: train_state.TrainState.create(apply_fn=len, params=params, tx=tx),
        "flax dataclass": lambda: DataclassState(params, opt_state, step=7),
        "dataclass": lambda: PlainState(params, opt_state, step=7),
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
