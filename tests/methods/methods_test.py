"""What each method's weights are, in numbers worked out by hand or by numpy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from reweight_jax.data.batches import batch_rows
from reweight_jax.data.examples import Examples
from reweight_jax.methods import METHODS, Context

# A training set of 8 nines (label 1) and 2 fours (label 0).
LABELS = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1], np.int32)
TRAIN = Examples(np.zeros((10, 2, 2, 1), np.uint8), LABELS, LABELS, np.arange(10))


@functools.cache
def compiled(name):
    """Returns the state of a method, and its compiled weights."""
    method = METHODS[name]
    config = ConfigDict({"num_steps": 40, "mentor_percentile": 70.0})
    state = () if method.trainable else method.init(jax.random.key(1), config, TRAIN, 2)
    return state, jax.jit(method.weights)


def weigh(name, losses, labels, epsilon_gradient=None, seed=0):
    """Returns the weights that a method gives to one batch, a quarter through the run."""
    state, weights_of = compiled(name)
    context = Context(
        losses=jnp.asarray(losses, jnp.float32),
        labels=jnp.asarray(labels, jnp.int32),
        key=jax.random.key(seed),
        step=jnp.int32(10),
        method_state=state,
        epsilon_gradient=None if epsilon_gradient is None else jnp.float32(epsilon_gradient),
    )
    weights, new_state = weights_of(context)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    return np.asarray(weights)


@pytest.mark.parametrize("name", ["baseline", "resample"])
def test_plain_weights(name):
    np.testing.assert_allclose(weigh(name, [1, 2, 3, 4], [0, 1, 1, 1]), [0.25] * 4)


def test_proportion_is_inverse_frequency():
    # Frequencies 2/10 and 8/10: the weight of a four is four times that of a nine.
    np.testing.assert_allclose(
        weigh("proportion", [1, 2, 3, 4], [0, 1, 1, 1]), [4 / 7, 1 / 7, 1 / 7, 1 / 7], rtol=1e-6
    )


def test_hard_mining_keeps_the_hardest_of_the_majority():
    losses = [9, 0.1, 0.5, 7, 0.3, 0.2]
    # Two fours (label 0), so the two nines with the highest losses are kept: 0.5 and 7.
    np.testing.assert_allclose(
        weigh("hard_mining", losses, [0, 0, 1, 1, 1, 1]), [0.25, 0.25, 0.25, 0.25, 0, 0]
    )
    # No four in the batch: the one hardest nine is kept.
    np.testing.assert_allclose(weigh("hard_mining", losses, [1] * 6), [1, 0, 0, 0, 0, 0])
    # No nine in the batch: all fours are kept.
    np.testing.assert_allclose(weigh("hard_mining", losses, [0] * 6), [1 / 6] * 6, rtol=1e-6)


def test_random_is_a_rectified_gaussian():
    weights = weigh("random", np.ones(20_000), np.zeros(20_000))
    assert weights.min() == 0 and abs(weights.sum() - 1) < 1e-5
    assert abs(np.mean(weights == 0) - 0.5) < 0.02
    # E[max(z, 0)] = 1 / sqrt(2 pi) and E[max(z, 0)^2] = 1/2: N * sum w^2 = pi.
    assert abs(20_000 * np.sum(weights**2) - np.pi) < 0.15
    other = weigh("random", np.ones(20_000), np.zeros(20_000), seed=1)
    assert np.mean(weights != other) > 0.5


def test_reweight_rectifies_and_normalises():
    np.testing.assert_allclose(
        weigh("reweight", [1, 1, 1, 1], [0, 1, 1, 1], [-3.0, 2.0, -1.0, 0.0]), [0.75, 0, 0.25, 0]
    )
    np.testing.assert_array_equal(weigh("reweight", [1, 1], [0, 1], [3.0, 2.0]), [0, 0])


@pytest.mark.parametrize("name", METHODS)
def test_weights_sum_to_one_and_do_not_depend_on_the_order(name, short_mentor):
    rng = np.random.default_rng(0)
    losses, labels, gradient = rng.uniform(size=50), rng.integers(2, size=50), rng.normal(size=50)
    weights = weigh(name, losses, labels, gradient)
    assert weights.shape == (50,) and weights.min() >= 0
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    if name != "random":
        order = rng.permutation(50)
        again = weigh(name, losses[order], labels[order], gradient[order])
        np.testing.assert_allclose(again, weights[order], rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_samplers(name):
    """resample draws the classes equally often; every other method takes each example once."""
    rows = batch_rows(METHODS[name].sampler(LABELS, 3), 0, 4, 5)  # two epochs of ten
    counts = np.bincount(rows.ravel(), minlength=10)
    if name == "resample":
        assert LABELS[rows.ravel()].sum() == 10  # half of 20 are nines
        assert counts[LABELS == 0].sum() == 10 and counts[LABELS == 0].min() == 5
    else:
        np.testing.assert_array_equal(counts, 2)


def test_methods_that_need_classes_say_so():
    """Whatever reads a class from a label, or probabilities from the outputs, names the task."""
    any_task = {name for name, method in METHODS.items() if method.tasks is None}
    assert any_task == {"baseline", "random", "clean_only", "reweight"}
    assert {METHODS[name].tasks for name in METHODS.keys() - any_task} == {("classification",)}
    tags = np.array([[0, 1, -1], [1, 1, 0]])  # labels of another task: three tags an example
    for name in any_task:
        assert METHODS[name].loss is None
        assert weigh(name, [1.0, 2.0], tags, [-1.0, -3.0]).shape == (2,)
