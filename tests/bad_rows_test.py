"""A row of a batch that is not finite does not spoil the others' weights, nor the update."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from by_hand import batches, both_methods, step_from_params
from jax.sharding import PartitionSpec as P

from reweight_jax import epsilon_gradient, example_weights
from reweight_jax.bad_rows import bad_rows, replace_rows
from reweight_jax.trees import by_path

NETWORK = small_models.logistic()
LOSS_FN = small_models.logistic_losses
BAD = 2


def spoiled(batch, value=np.nan, row=BAD, name="x"):
    changed = batch[name].copy()
    changed[row] = value
    return batch | {name: changed}


def without(batch):
    return jax.tree.map(lambda x: np.delete(x, BAD, axis=0), batch)


@both_methods
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_step_is_that_of_the_batch_without_the_row(method, value):
    batch, clean = batches(NETWORK, 8, 4)
    step = jax.jit(functools.partial(step_from_params, LOSS_FN, method=method))
    state, metrics = step(NETWORK.params, spoiled(batch, value), clean)
    expected_state, expected = step(NETWORK.params, without(batch), clean)
    assert expected["weights"].max() > 0
    chex.assert_trees_all_close(state.params, expected_state.params, rtol=1e-6)
    chex.assert_trees_all_close(metrics["loss"], expected["loss"], rtol=1e-6)
    for name in ("losses", "weights", "epsilon_gradient"):
        chex.assert_trees_all_close(np.delete(metrics[name], BAD), expected[name], rtol=1e-6)
    assert metrics["weights"][BAD] == 0
    assert np.isnan(metrics["losses"][BAD]) and np.isnan(metrics["epsilon_gradient"][BAD])


def test_a_mask_is_replaced_with_its_row():
    x = np.array([[1.0, 2.0], [np.nan, 1.0], [0.0, 1.0]], np.float32)
    mask = np.array([[True, True], [False, False], [True, False]])

    def loss_fn(params, batch):  # 0 / 0 of a row whose mask is empty
        squares = (batch["x"] * params[None]) ** 2 * batch["mask"]
        return squares.sum(1) / batch["mask"].sum(1), None

    params, clean = jnp.ones(2), {"x": x[:1], "mask": mask[:1]}
    step = functools.partial(step_from_params, loss_fn)
    state, metrics = step(params, {"x": x, "mask": mask}, clean)
    expected, _ = step(params, {"x": x[::2], "mask": mask[::2]}, clean)
    chex.assert_trees_all_close(state.params, expected.params, rtol=1e-6)
    assert metrics["weights"][1] == 0


@both_methods
def test_the_weights_without_a_step(method):
    batch, clean = batches(NETWORK, 8, 4)
    weights = example_weights(LOSS_FN, NETWORK.params, spoiled(batch), clean, method=method)
    expected = example_weights(LOSS_FN, NETWORK.params, without(batch), clean, method=method)
    chex.assert_trees_all_close(np.delete(weights, BAD), expected, rtol=1e-6)
    assert weights[BAD] == 0


@both_methods
def test_of_some_of_the_parameters_it_is_the_same(method):
    batch, clean = batches(NETWORK, 8, 4)
    name = next(iter(by_path(NETWORK.params)))
    step = functools.partial(step_from_params, LOSS_FN, method=method, over=f"^{name}$")
    state, metrics = step(NETWORK.params, spoiled(batch), clean)
    expected_state, expected = step(NETWORK.params, without(batch), clean)
    chex.assert_trees_all_close(state.params, expected_state.params, rtol=1e-6)
    chex.assert_trees_all_close(np.delete(metrics["weights"], BAD), expected["weights"], rtol=1e-6)
    assert metrics["weights"][BAD] == 0 and np.isnan(metrics["epsilon_gradient"][BAD])


@both_methods
def test_batch_norm_does_not_spread_it(method):
    network = small_models.residual_net(np.float32, dropout_rate=0.0)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    batch, clean = batches(network, 8, 4)
    name = next(n for n, x in batch.items() if np.issubdtype(x.dtype, np.floating))
    assert np.isnan(loss_fn(network.params, spoiled(batch, name=name))[0]).all()
    step = functools.partial(step_from_params, loss_fn, method=method)
    state, metrics = jax.jit(step)(network.params, spoiled(batch, name=name), clean)
    assert np.flatnonzero(~np.isfinite(metrics["losses"])).tolist() == [BAD]
    np.testing.assert_allclose(metrics["weights"].sum(), 1, rtol=1e-5)
    assert metrics["weights"][BAD] == 0
    chex.assert_tree_all_finite(state.params)
    chex.assert_tree_all_finite(metrics["aux"])


def test_a_loss_that_alone_is_not_finite_leaves_the_others_weights():
    """By "jvp"; by "lookahead" no weight of the step can be told."""

    def loss_fn(params, batch):
        losses, aux = LOSS_FN(params, batch)
        return losses / batch["divisor"], aux

    batch, clean = batches(NETWORK, 8, 4)
    clean |= {"divisor": np.ones(4, np.float32)}
    batch |= {"divisor": np.ones(8, np.float32)}
    weights = jax.jit(functools.partial(example_weights, loss_fn), static_argnames="method")
    got = weights(NETWORK.params, spoiled(batch, 0.0, name="divisor"), clean, method="jvp")
    expected = weights(NETWORK.params, without(batch), clean, method="jvp")
    chex.assert_trees_all_close(np.delete(got, BAD), expected, rtol=1e-5)
    assert got[BAD] == 0
    got = weights(NETWORK.params, spoiled(batch, 0.0, name="divisor"), clean, method="lookahead")
    assert not got.any()


def test_a_missing_label_is_not_a_bad_row():
    def loss_fn(params, batch):
        known = jnp.isfinite(batch["y"])
        losses, aux = LOSS_FN(params, batch | {"y": jnp.where(known, batch["y"], 0)})
        return jnp.where(known, losses, 0), aux

    batch, clean = batches(NETWORK, 8, 4)
    batch = spoiled(batch, name="y")
    _, metrics = step_from_params(loss_fn, NETWORK.params, batch, clean)
    chex.assert_tree_all_finite(metrics)
    is_bad = bad_rows(lambda rows: loss_fn(NETWORK.params, rows)[0], batch)
    assert not is_bad.any()


@both_methods
def test_a_clean_row_that_is_not_finite_shows_in_the_loss(method):
    batch, clean = batches(NETWORK, 8, 4)
    state, metrics = step_from_params(LOSS_FN, NETWORK.params, batch, spoiled(clean), method=method)
    assert np.isnan(metrics["loss"]) and not metrics["weights"].any()
    chex.assert_trees_all_equal(state.params, jax.tree.map(jnp.asarray, NETWORK.params))


def test_a_batch_of_nothing_but_bad_rows_is_not_learnt_from():
    batch, clean = batches(NETWORK, 8, 4)
    batch = spoiled(batch, row=slice(None))
    state, metrics = step_from_params(LOSS_FN, NETWORK.params, batch, clean)
    assert np.isnan(metrics["losses"]).all() and not metrics["weights"].any()
    chex.assert_tree_all_finite(state.params)


@both_methods
def test_on_devices_as_on_one(method):
    batch, clean = batches(NETWORK, 8, 4)
    batch = spoiled(batch)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    options = {"method": method, "axis_name": "d"}
    on_devices = jax.shard_map(
        functools.partial(epsilon_gradient, LOSS_FN, **options),
        mesh=mesh,
        in_specs=(P(), P("d"), P("d")),
        out_specs=P("d"),
        check_vma=False,
    )
    got = jax.jit(on_devices)(NETWORK.params, batch, clean)
    expected = epsilon_gradient(LOSS_FN, NETWORK.params, batch, clean, method=method)
    assert np.isnan(got[BAD]) and np.isfinite(np.delete(got, BAD)).all()
    chex.assert_trees_all_close(got, expected, rtol=1e-5)


def test_the_losses_are_asked_only_if_a_row_is_not_finite():
    calls = []

    def losses(rows):
        jax.debug.callback(lambda: calls.append(1))
        return rows["x"].sum(axis=1)

    batch = {"x": np.ones((4, 3), np.float32), "label": np.arange(4)}
    of = jax.jit(functools.partial(bad_rows, losses))
    assert not of(batch).any()
    jax.effects_barrier()
    assert not calls
    assert of(spoiled(batch)).tolist() == [False, False, True, False]
    jax.effects_barrier()
    assert len(calls) == 1
    integers = {"x": np.ones((4, 3), np.uint8)}
    assert replace_rows(integers, bad_rows(losses, integers)) is integers


def test_rows_of_numbers_and_flags_are_replaced():
    batch = {
        "float": np.float32([[1, 2], [np.nan, 3], [4, 5]]),
        "image": np.uint8([[200], [7], [255]]),
        "flag": np.array([True, False, True]),
        "label": np.int32([3, -1, 5]),
    }
    got = jax.jit(replace_rows)(batch, np.array([False, True, False]))
    expected = jax.tree.map(lambda x: x[[0, 0, 2]], batch)
    chex.assert_trees_all_equal(got, jax.tree.map(jnp.asarray, expected))
    chex.assert_trees_all_equal_dtypes(got, jax.tree.map(jnp.asarray, expected))


@both_methods
def test_a_batch_that_has_other_rows_than_losses(method):
    """Two losses for each row: the batch has a form that only its loss knows."""

    def loss_fn(params, batch):
        losses, aux = LOSS_FN(params, batch)
        return jnp.concatenate([losses, 2 * losses]), aux

    batch, clean = batches(NETWORK, 4, 2)
    weights = example_weights(loss_fn, NETWORK.params, batch, clean, method=method)
    assert weights.shape == (8,)
    chex.assert_tree_all_finite(weights)
    spoilt = example_weights(loss_fn, NETWORK.params, spoiled(batch), clean, method="jvp")
    chex.assert_tree_all_finite(spoilt)


@both_methods
def test_a_device_of_nothing_but_bad_rows(method):
    """It takes a good row of another device: here a row of zeros would have no direction."""

    def loss_fn(params, batch):
        length = jnp.linalg.norm(batch["x"], axis=1, keepdims=True)
        return LOSS_FN(params, batch | {"x": batch["x"] / length})

    batch, clean = batches(NETWORK, 8, 4)
    batch = spoiled(batch, row=slice(2, 5))  # with two rows a device, all of the second one's
    step = functools.partial(step_from_params, loss_fn, NETWORK.params, method=method)
    expected_state, expected = jax.jit(step)(batch, clean)

    def split(tree):
        return jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), tree)

    on_four = jax.pmap(functools.partial(step, axis_name="d"), axis_name="d")
    state, metrics = on_four(split(batch), split(clean))
    chex.assert_trees_all_close(metrics["weights"].ravel(), expected["weights"], rtol=1e-5)
    params = jax.tree.map(lambda x: x[1], state.params)
    chex.assert_tree_all_finite(params)
    chex.assert_trees_all_close(params, expected_state.params, rtol=1e-5)


@both_methods
def test_a_batch_may_hold_anything(method):
    """Keys, numbers for all rows, text, and what the loss reads as numpy."""
    batch, clean = batches(NETWORK, 8, 4)
    expected = example_weights(LOSS_FN, NETWORK.params, spoiled(batch), clean, method=method)
    keys = jax.random.split(jax.random.key(0), 8)
    more = {"key": keys, "scale": jnp.float32(1), "count": 3, "name": "a"}

    def loss_fn(params, batch):
        if "name" in batch:
            assert batch["name"] == "a" and int(batch["count"]) == 3
            batch = batch | {"x": batch["x"] * batch["scale"]}
        return LOSS_FN(params, batch)

    got = example_weights(loss_fn, NETWORK.params, spoiled(batch) | more, clean, method=method)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def test_the_lookahead_shares_its_forward_pass():
    """With floats and with integers: what is replaced must be the same batch in both places."""
    network = small_models.residual_net(np.float32, dropout_rate=0.0)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    batch, clean = batches(network, 8, 4)

    def flops(method):
        step = functools.partial(step_from_params, loss_fn, method=method)
        compiled = jax.jit(step).lower(network.params, batch, clean).compile()
        return compiled.cost_analysis()["flops"]

    assert flops("lookahead") < 1.38 * flops("jvp")  # 1.44 with a second forward pass
