"""The algorithm on four devices is that on one: pmap, shard_map, sharded arguments of jit."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models
from by_hand import batches, both_methods

from reweight_jax import (
    ReweightState,
    example_weights,
    normalize_weights,
    reweight_step,
)

SLOW = pytest.mark.slow  # what differs in little from what is fast
FEW_DIFFERENCES = ((0, "lookahead"), (None, "jvp"))


def test_normalize_weights_over_the_global_batch():
    """One device has nothing helpful, and the sum is that of all four."""
    gradient = jnp.array([[-1.0, -2.0], [3.0, 1.0], [-4.0, 0.0], [-2.0, -1.0]])
    got = jax.pmap(functools.partial(normalize_weights, axis_name="batch"), axis_name="batch")
    expected = np.array([[0.1, 0.2], [0.0, 0.0], [0.4, 0.0], [0.2, 0.1]], np.float32)
    chex.assert_trees_all_close(got(gradient), expected, rtol=1e-6)
    chex.assert_trees_all_close(got(jnp.abs(gradient)), np.zeros((4, 2), np.float32))


@pytest.mark.parametrize(
    ("clean_axis", "method"),
    [
        pytest.param(axis, method, marks=SLOW if (axis, method) in FEW_DIFFERENCES else ())
        for axis in (0, None)
        for method in ("lookahead", "jvp")
    ],
)
def test_four_devices_are_one(x64, clean_axis, method):
    """Exactly, with BatchNorm over the axis: not only the weights, in which a factor cancels."""
    tx = optax.sgd(0.1, momentum=0.9)

    def everything(network, axis_name):
        loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
        kwargs = dict(method=method, axis_name=axis_name)

        def run(params, batch, clean):
            weights = example_weights(loss_fn, params, batch, clean, **kwargs)
            state = ReweightState(params, tx.init(params))
            state, metrics = reweight_step(
                state, batch, clean, loss_fn=loss_fn, tx=tx, lookahead_lr=0.5, **kwargs
            )
            same_everywhere = state, metrics["loss"], metrics["aux"]
            shares = [metrics[name] for name in ("epsilon_gradient", "weights", "losses")]
            return (weights, *shares), same_everywhere

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
    step_of_one = functools.partial(reweight_step, loss_fn=loss_fn, **kwargs)
    expected, metrics = jax.jit(step_of_one)(state, batch, clean)
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
    tracked = jax.shard_map(step, mesh=mesh, out_specs=out_specs, **specs | {"check_vma": True})
    with pytest.raises(ValueError, match="give jax.shard_map check_vma=False"):
        tracked(state, batch, clean)
    chex.assert_trees_all_close(got_state, expected, rtol=1e-9, atol=1e-12)
    chex.assert_trees_all_close(loss, metrics["loss"], rtol=1e-9)
    chex.assert_trees_all_close(weights, metrics["weights"], rtol=1e-9, atol=1e-12)
