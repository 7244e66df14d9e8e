"""as_model of pairs of functions, and what it asks of any model's inputs and outputs."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapted import (
    K,
    LinenNet,
    features,
)

from reweight_jax.models import Model, as_model, scale_inputs, standardized

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
