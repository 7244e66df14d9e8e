"""as_model: a user's linen, nnx and plain models; one key decides all masks; four devices, one."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from reweight_jax.models import Model, as_model, scale_inputs, standardized
from reweight_jax.models.dropout import drop

NUM_FEATURES, K = 5, 3


class LinenNet(nn.Module):
    """BatchNorm and both ways to call dropout; `norm` is an attribute, shared with the caller."""

    norm: nn.Module | None = None
    rate: float = 0.4

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(not train, momentum=0.9)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(x))
        x = nn.Dropout(self.rate)(nn.Dense(6)(x), deterministic=not train)
        return nn.Dense(K)(x)


class LinenSetupNet(nn.Module):
    """Layers that are made outside and in setup, and a flag of the other sense."""

    norm: nn.Module

    def setup(self):
        self.dense, self.out = nn.Dense(8), nn.Dense(K)
        self.dropout = nn.Dropout(0.4)

    def __call__(self, x, *, deterministic=True):
        x = self.norm(self.dense(x), use_running_average=deterministic)
        return self.out(self.dropout(x, deterministic=deterministic))


class NnxNet(nnx.Module):
    """A list of layers, BatchNorm, dropout, and streams of random numbers of its own."""

    def __init__(self, rngs, rate=0.4):
        self.layers = nnx.List(
            [nnx.Linear(NUM_FEATURES, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)]
        )
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(8, K, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.out(self.dropout(self.norm(x)))


NETS = {
    "linen": LinenNet,
    "linen_setup": lambda: LinenSetupNet(nn.BatchNorm(momentum=0.9)),
    "nnx": lambda: NnxNet(nnx.Rngs(0)),
}
all_nets = pytest.mark.parametrize("net", NETS)


def features(n=8, seed=0):
    """The examples differ in scale: the statistics of a part of the batch are others."""
    x = np.random.default_rng(seed).normal(size=(n, NUM_FEATURES)).astype(np.float32)
    return x * np.linspace(0.2, 3, n, dtype=np.float32)[:, None]


def start(net, **settings):
    model = as_model(NETS[net](), num_outputs=K, **settings)
    return model, *model.init(jax.random.key(0), features())


def arrays_of(module):
    return jax.tree.map(np.array, nnx.state(module, nnx.Not(nnx.RngState)))


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


# --- nnx ------------------------------------------------------------------------------------------


def test_the_users_nnx_module_is_read_and_never_changed():
    module = NnxNet(nnx.Rngs(0))
    before = arrays_of(module)
    model = as_model(module, axis_name="batch")
    params, state = model.init(jax.random.key(5), features())
    np.testing.assert_array_equal(params["layers"]["1"]["kernel"], module.layers[1].kernel[...])
    np.testing.assert_array_equal(state["norm"]["var"], module.norm.var[...])
    for leaf in jax.tree.leaves((params, state)):
        leaf.delete()
    chex.assert_trees_all_equal(arrays_of(module), before)
    assert module.norm.axis_name is None and type(module.dropout) is nnx.Dropout
    assert not module.dropout.deterministic
    chex.assert_trees_all_equal(
        *(model.init(jax.random.key(seed), features()) for seed in range(2))
    )


def test_nnx_is_called_as_flax_calls_it():
    module = NnxNet(nnx.Rngs(0), rate=0.0)
    model = as_model(module)
    params, state = model.init(jax.random.key(0), features())
    evaluated, _ = model.apply(params, state, features(), train=False)
    outputs, new_state = model.apply(params, state, features(), train=True, key=jax.random.key(0))
    module.eval()
    np.testing.assert_allclose(evaluated, module(features()), rtol=1e-5, atol=1e-6)
    module.train()
    np.testing.assert_allclose(outputs, module(features()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new_state["norm"]["mean"], module.norm.mean[...], rtol=1e-6)


def test_nnx_gradients_are_nnxs_own():
    module = NnxNet(nnx.Rngs(0), rate=0.0)
    model = as_model(module)
    params, state = model.init(jax.random.key(0), features())
    labels = np.arange(8) % K

    def loss(outputs):
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()

    gradient = jax.grad(
        lambda p: loss(model.apply(p, state, features(), train=True, key=jax.random.key(0))[0])
    )(params)
    module.train()
    expected = nnx.to_pure_dict(nnx.grad(lambda module: loss(module(features())))(module))
    expected["layers"] = {str(i): layer for i, layer in expected["layers"].items()}
    chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Flax's, of sow outside nnx.capture
def test_what_an_nnx_module_sows_is_not_its_state():
    class Net(NnxNet):
        def __call__(self, x):
            self.sow(nnx.Intermediate, "inputs", x)
            return super().__call__(x)

    model = as_model(Net(nnx.Rngs(0)))
    params, state = model.init(jax.random.key(0), features())
    _, new_state = model.apply(params, state, features(), train=True, key=jax.random.key(0))
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_nnx_streams_passed_to_call():
    class Net(nnx.Module):
        def __init__(self):
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x, *, rngs=None):
            return self.dropout(x, rngs=rngs)

    model = as_model(Net())
    results = [
        model.apply({}, {}, features(), train=True, key=jax.random.key(seed))[0]
        for seed in (1, 1, 2)
    ]
    chex.assert_trees_all_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    np.testing.assert_array_equal(model.apply({}, {}, features(), train=False)[0], features())


# --- pairs of functions, outputs and errors -------------------------------------------------------


def linear(num_outputs=K, squeeze=False):
    def init(key, inputs):
        return {"kernel": jax.random.normal(key, (inputs.shape[1], num_outputs))}, {}

    def apply(params, model_state, inputs, *, train, key):
        outputs = inputs @ params["kernel"]
        return (outputs[:, 0] if squeeze else outputs).astype(jnp.float16), model_state

    return init, apply


def test_a_pair_of_functions():
    for pair in (linear(), Model(*linear())):
        model = as_model(pair, num_outputs=K)
        params, state = model.init(jax.random.key(0), features())
        outputs, _ = model.apply(params, state, features(), train=False)
        assert outputs.dtype == jnp.float32
        np.testing.assert_allclose(outputs, features() @ params["kernel"], rtol=1e-2, atol=1e-2)


def test_outputs_of_one_number_become_a_column():
    column, vector = (as_model(linear(1, squeeze), num_outputs=1) for squeeze in (False, True))
    params, state = column.init(jax.random.key(0), features())
    results = [model.apply(params, state, features(), train=False)[0] for model in (column, vector)]
    assert results[0].shape == (8, 1)
    chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize(
    "function, num_outputs, message",
    [
        (lambda x: x[:, :2], 3, r"model: outputs of shape \(8, 2\) for 8 inputs; must be \[8, 3\]"),
        (lambda x: x[:, 0], 3, r"model: outputs of shape \(8,\) for 8 inputs; must be \[8, 3\]"),
        (lambda x: x[:, :, None], None, r"model: outputs of shape \(8, 5, 1\) .* \[8, K\]"),
        (lambda x: x[:4], None, r"model: outputs of shape \(4, 5\) for 8 inputs"),
        (lambda x: jnp.sum(x), 1, r"model: outputs of shape \(\) for 8 inputs; must be \[8, 1\]"),
        (lambda x: (x, x), 5, r"model: outputs tuple for 8 inputs; must be \[8, 5\]"),
    ],
)
def test_outputs_of_another_shape_are_named(function, num_outputs, message):
    class Net(nn.Module):
        def __call__(self, x):
            return function(x)

    with pytest.raises(ValueError, match=f"^{message}") as error:
        as_model(Net(), num_outputs=num_outputs).apply({}, {}, features(), train=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "model, what",
    [
        (LinenNet, "the class LinenNet"),
        (lambda x: x, "function"),
        ("lenet", "str"),
        ((1, 2), "tuple"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_model_is_named(model, what):
    with pytest.raises(ValueError, match=f"^model: {what} is not a Flax linen or nnx") as error:
        as_model(model)
    assert "\n" not in str(error.value)


# --- inputs ---------------------------------------------------------------------------------------


def test_only_bytes_are_scaled():
    images = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    scaled = scale_inputs(images)
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(np.ravel(scaled), np.linspace(0, 1, 256), rtol=1e-6)
    tokens, floats = jnp.arange(6).reshape(2, 3), jnp.ones((2, 3), jnp.bfloat16)
    both = scale_inputs({"image": images, "tokens": tokens, "floats": floats})
    np.testing.assert_array_equal(both["image"], scaled)
    assert both["tokens"] is tokens and both["floats"] is floats


def test_standardized():
    mean, deviation = np.float64([1, 2, 3, 4, 5]), np.float64([1, 2, 0.5, 0, 10])
    inner = as_model(LinenNet(rate=0.0), num_outputs=K)
    model = standardized(inner, mean, deviation)
    params, state = model.init(jax.random.key(0), features())
    z = (features() - mean) / np.where(deviation, deviation, 1)
    assert np.abs(z).max() > 5  # which is clipped
    z = np.clip(z, -5, 5).astype(np.float32)
    _, inner_state = inner.init(jax.random.key(0), z)
    for train in (False, True):
        key = jax.random.key(1) if train else None
        outputs, new_state = model.apply(params, state, features(), train=train, key=key)
        expected, new_inner = inner.apply(params, inner_state, z, train=train, key=key)
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
        chex.assert_trees_all_close(new_state["model"], new_inner, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_equal(new_state["inputs"], state["inputs"])
    # A checkpoint's numbers count, not those that the program was made with.
    other = standardized(inner, np.zeros(5), np.ones(5))
    chex.assert_trees_all_equal(
        other.apply(params, state, features(), train=False),
        model.apply(params, state, features(), train=False),
    )


def test_standardized_takes_a_number_for_each_feature():
    with pytest.raises(ValueError, match=r"mean \(3,\), deviation \(2,\); must both be \[D\]"):
        standardized(as_model(LinenNet()), np.zeros(3), np.ones(2))
