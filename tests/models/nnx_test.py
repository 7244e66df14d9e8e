"""as_model of nnx modules: read, called as Flax calls them, and never changed."""

import chex
import jax
import numpy as np
import optax
import pytest
from adapted import (
    K,
    NnxNet,
    arrays_of,
    features,
)
from flax import nnx
from judged_runs import examples, experiment

from reweight_jax.models import Model, as_model
from reweight_jax.train.state import create_train_state


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


def test_parameters_that_are_there_are_no_constants_of_a_program(monkeypatch):
    """Constants take long to compile, and several times their memory."""
    splits = examples("classification", 24, 0), examples("classification", 6, 1)
    constants, jit = [], jax.jit

    def watched(function, **kwargs):
        def call(*arguments):
            closed = jax.make_jaxpr(function)(*arguments)
            constants.extend(np.shape(array) for array in closed.consts)
            return jit(function, **kwargs)(*arguments)

        return call

    monkeypatch.setattr(jax, "jit", watched)
    linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    init, apply, given = as_model(linear)
    assert given
    for model in (linear, Model(init, apply, given=True)):
        state = create_train_state(experiment(splits, model=model))
        np.testing.assert_array_equal(state.params["model"]["kernel"], linear.kernel[...])
    assert (4, 3) not in constants
    create_train_state(experiment(splits, model=Model(init, apply)))
    assert (4, 3) in constants
