"""The multilayer perceptron against numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax.models import as_model
from reweight_jax.models.mlp import MLP


def forward(params, x):
    """Dense layers with ReLU between them, in float64."""
    names = sorted(params)
    for name in names:
        x = x @ np.float64(params[name]["kernel"]) + np.float64(params[name]["bias"])
        x = np.maximum(x, 0) if name != names[-1] else x
    return x


@pytest.mark.parametrize("hidden", [(), (7,), (7, 5, 4)])
@pytest.mark.parametrize("shape", [(6,), (3, 2)])
def test_mlp(hidden, shape):
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    model = as_model(MLP(3, hidden), num_outputs=3)
    params, state = model.init(jax.random.key(0), x)
    sizes = [6, *hidden, 3]
    assert [params[f"Dense_{i}"]["kernel"].shape for i in range(len(hidden) + 1)] == list(
        zip(sizes[:-1], sizes[1:], strict=True)
    )
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases start at zero
    for train in (True, False):
        outputs, _ = model.apply(params, state, x, train=train, key=jax.random.key(1))
        np.testing.assert_allclose(outputs, forward(params, x.reshape(5, 6)), rtol=1e-4, atol=1e-5)


def test_dropout_follows_each_hidden_layer():
    x = np.ones((4000, 2), np.float32)
    params = {
        "Dense_0": {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)},  # 3
        "Dense_1": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)},  # 3 / 0.8 + 1 or 1
        "Dense_2": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)},
    }
    model = as_model(MLP(1, (1, 1), dropout=0.2))
    outputs, _ = model.apply(params, {}, x, train=True, key=jax.random.key(0))
    kept_both, kept_last, dropped = (3 / 0.8 + 1) / 0.8 + 1, 1 / 0.8 + 1, 1
    values, counts = np.unique(np.round(outputs, 4), return_counts=True)
    np.testing.assert_allclose(values, [dropped, kept_last, kept_both], rtol=1e-4)
    # A binomial's deviation is at most 0.5 / sqrt(4000) = 0.008.
    np.testing.assert_allclose(counts / 4000, [0.2, 0.8 * 0.2, 0.8 * 0.8], atol=0.03)
    evaluated, _ = model.apply(params, {}, x, train=False)
    np.testing.assert_allclose(evaluated, 5)


def test_bfloat16_is_only_of_the_computation():
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    full, half = (as_model(MLP(3, (8,), dtype=dtype)) for dtype in (jnp.float32, jnp.bfloat16))
    params, _ = half.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    outputs = [model.apply(params, {}, x, train=False)[0] for model in (half, full)]
    assert outputs[0].dtype == jnp.float32
    chex.assert_trees_all_close(*outputs, atol=0.05)
    assert not np.array_equal(*outputs)
