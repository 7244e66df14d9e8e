"""as_model: a user's linen, nnx and plain models; one key decides all masks; four devices, one."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from adapted import NETS, K, LinenNet, all_nets, features, start
from flax import nnx

from reweight_jax.models import as_model, mean_and_deviation
from reweight_jax.models.dropout import drop

# --- one form -------------------------------------------------------------------------------------


@all_nets
def test_state_is_plain_arrays_that_keep_their_shapes(net):
    model, params, state = start(net)
    for tree in (params, state):
        assert all(type(leaf) is not nnx.Variable for leaf in jax.tree.leaves(tree))
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
        paths = jax.tree_util.tree_leaves_with_path(tree)
        assert all(isinstance(part.key, str) for path, _ in paths for part in path)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * 8  # mean and variance
    outputs, new_state = model.apply(params, state, features(), train=True, key=jax.random.key(1))
    assert outputs.shape == (8, K) and outputs.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    with pytest.raises(AssertionError):  # the statistics moved
        chex.assert_trees_all_close(new_state, state)
    evaluated, same = model.apply(params, new_state, features(), train=False)
    assert same is new_state
    chex.assert_trees_all_equal(
        evaluated, model.apply(params, new_state, features(), train=False)[0]
    )


@all_nets
def test_masks_are_decided_by_the_key(net):
    model, params, state = start(net)
    apply = functools.partial(model.apply, params, state, features(), train=True)
    results = [apply(key=jax.random.key(seed)) for seed in (1, 1, 2)]
    chex.assert_trees_all_equal(results[0], results[1])
    assert np.abs(results[0][0] - results[2][0]).max() > 0.01
    # A later call, from another state, has the masks of its key as well.
    _, moved = results[0]
    again = model.apply(params, moved, features(), train=True, key=jax.random.key(1))[0]
    chex.assert_trees_all_close(again, results[0][0])  # batch statistics: the state is not read


@all_nets
def test_four_devices_compute_what_one_does(net):
    """Outputs, running statistics and gradients; without the axis they would differ."""
    x, key = features(), jax.random.key(1)
    _, params, state = start(net)

    def run(axis_name, over_devices):
        model = as_model(NETS[net](), num_outputs=K, axis_name=axis_name)

        def apply(params, state, x):
            def loss(params):
                outputs, new_state = model.apply(params, state, x, train=True, key=key)
                return jnp.sum(outputs**2), (outputs, new_state)

            gradient, (outputs, new_state) = jax.grad(loss, has_aux=True)(params)
            if over_devices:
                gradient = jax.lax.psum(gradient, "batch")
            return outputs, new_state, gradient

        if not over_devices:
            return jax.jit(apply)(params, state, x)
        mapped = jax.pmap(apply, "batch", in_axes=(None, None, 0))
        outputs, *rest = mapped(params, state, x.reshape(4, 2, -1))
        for leaf in jax.tree.leaves(rest):
            np.testing.assert_allclose(leaf, np.broadcast_to(leaf[:1], leaf.shape), rtol=1e-5)
        return outputs.reshape(8, K), *jax.tree.map(lambda leaf: leaf[0], rest)

    expected = run(None, False)
    chex.assert_trees_all_close(run("batch", True), expected, rtol=1e-4, atol=1e-4)


@all_nets
def test_without_the_axis_devices_differ(net):
    """That is what the test above would find."""
    _, params, state = start(net)
    model = as_model(NETS[net](), num_outputs=K)
    apply = functools.partial(model.apply, train=True, key=jax.random.key(1))
    expected = apply(params, state, features())[0]
    outputs, _ = jax.pmap(apply, "batch", in_axes=(None, None, 0))(
        params, state, features().reshape(4, 2, -1)
    )
    assert np.abs(outputs.reshape(8, K) - expected).max() > 0.1


@all_nets
def test_an_axis_that_the_user_named_is_kept(net):
    del net
    named = as_model(
        nn.Sequential([nn.Dense(K), nn.BatchNorm(use_running_average=False, axis_name="mine")]),
        axis_name="batch",
    )
    params, state = named.init(jax.random.key(0), features())
    with pytest.raises(NameError, match="mine"):
        jax.vmap(
            lambda x: named.apply(params, state, x, train=True, key=jax.random.key(0)),
            axis_name="batch",
        )(features().reshape(4, 2, -1))


@all_nets
def test_donated_and_saved(net, tmp_path):
    model, params, state = start(net)
    expected = jax.tree.map(np.array, (params, state))
    path = tmp_path / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, (params, state))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(path, jax.tree.map(jnp.zeros_like, (params, state)))
    chex.assert_trees_all_equal(restored, expected)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry, key):
        return model.apply(*carry, features(), train=True, key=key)[1], carry[0]

    step((params, state), jax.random.key(0))
    # The donated arrays were copies: the model can be initialised again.
    chex.assert_trees_all_equal(model.init(jax.random.key(0), features()), expected)


# --- linen ----------------------------------------------------------------------------------------


def test_linen_evaluation_is_flaxs_own():
    module = LinenNet()
    model, params, state = start("linen")
    variables = {"params": params, **state}
    chex.assert_trees_all_equal(
        model.apply(params, state, features(), train=False)[0],
        module.apply(variables, features(), train=False),
    )
    chex.assert_trees_all_equal(module.init(jax.random.key(0), features(), train=False), variables)
    without_dropout = LinenNet(rate=0.0)
    trained = as_model(without_dropout).apply(
        params, state, features(), train=True, key=jax.random.key(0)
    )
    expected = without_dropout.apply(variables, features(), train=True, mutable=["batch_stats"])
    chex.assert_trees_all_close(trained, expected, rtol=1e-6)


@pytest.mark.parametrize("flag", ["train", "training", "is_training"])
def test_a_flag_by_any_usual_name(flag):
    namespace = {}
    exec(f"def call(self, x, {flag}): return x * (2.0 if {flag} else 3.0)", namespace)
    for base in (nn.Module, nnx.Module):
        module = type("Net", (base,), {"__call__": namespace["call"]})()
        model = as_model(module)
        params, state = model.init(jax.random.key(0), features())
        assert (params, state) == ({}, {})
        for train, factor in ((True, 2), (False, 3)):
            outputs, _ = model.apply(params, state, features(), train=train, key=jax.random.key(0))
            np.testing.assert_array_equal(outputs, factor * features())


@pytest.mark.parametrize("flag", ["deterministic", "use_running_average"])
def test_flags_that_say_the_opposite(flag):
    namespace = {}
    exec(f"def call(self, x, *, {flag}=None): return x * (2.0 if {flag} else 3.0)", namespace)
    for base in (nn.Module, nnx.Module):
        model = as_model(type("Net", (base,), {"__call__": namespace["call"]})())
        for train, factor in ((True, 3), (False, 2)):
            outputs, _ = model.apply({}, {}, features(), train=train, key=jax.random.key(0))
            np.testing.assert_array_equal(outputs, factor * features())


def test_dict_inputs_are_one_argument():
    class TwoInputs(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(K)(inputs["a"]) + nn.Dense(K)(inputs["b"])

    inputs = {"a": features(), "b": features(seed=1)[:, :2]}
    model = as_model(TwoInputs(), num_outputs=K)
    params, state = model.init(jax.random.key(0), inputs)
    outputs, _ = model.apply(params, state, inputs, train=True, key=jax.random.key(0))
    expected = sum(
        inputs[name] @ np.asarray(params[f"Dense_{i}"]["kernel"]) for i, name in enumerate("ab")
    )
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_random_numbers_of_any_name():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return x + jax.random.normal(self.make_rng("noise"), x.shape) if train else x

    model = as_model(Noisy())
    outputs = [
        model.apply({}, {}, features(), train=True, key=jax.random.key(seed))[0]
        for seed in (1, 1, 2)
    ]
    chex.assert_trees_all_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 0.1


# --- dropout --------------------------------------------------------------------------------------


def test_dropout_masks():
    x = np.ones((400, 30), np.float32)
    y = np.asarray(drop(x, 0.25, jax.random.key(0)))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / x.size)
    assert len(np.unique(y, axis=0)) == 400  # the examples' masks differ
    # An example's mask depends on its place, not on how many follow.
    np.testing.assert_array_equal(drop(x[:7], 0.25, jax.random.key(0)), y[:7])
    columns = np.asarray(drop(x, 0.25, jax.random.key(0), broadcast_dims=(-1,)))
    assert (columns == columns[:, :1]).all() and len(np.unique(columns)) == 2
    rows = np.asarray(drop(x, 0.25, jax.random.key(0), broadcast_dims=(0,)))
    assert (rows == rows[:1]).all() and len(np.unique(rows)) == 2
    assert drop(x, 0, jax.random.key(0)) is x
    np.testing.assert_array_equal(drop(x, 1, jax.random.key(0)), np.zeros_like(x))


@pytest.mark.parametrize("dims", [(), (1,), (0,)])
def test_dropout_of_four_devices(dims):
    x = jax.random.normal(jax.random.key(1), (8, 6, 3))
    expected = drop(x, 0.5, jax.random.key(0), None, dims)
    run = jax.pmap(lambda x: drop(x, 0.5, jax.random.key(0), "batch", dims), "batch")
    np.testing.assert_array_equal(run(x.reshape(4, 2, 6, 3)).reshape(8, 6, 3), expected)


def test_the_statistics_of_a_table_are_those_of_float64():
    """A float32 sum of a million rows around 2,000 is off by more than their deviation."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(1_000_001, 2)).astype(np.float32) * [10, 0.1] + [2_000, -1]
    table = np.hstack([table, np.full((len(table), 1), 0.1)]).astype(np.float32)
    mean, deviation = mean_and_deviation(table)
    exact = table.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(deviation[:2], exact.std(0)[:2], rtol=1e-9)
    assert deviation[2] == 0  # a constant column
