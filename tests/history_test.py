"""What is remembered of each example's weights, against means by hand."""

import chex
import jax.numpy as jnp
import numpy as np

from reweight_jax.history import add_visits, empty_history

NAN = np.nan


def test_means_over_visits():
    history = empty_history(4)
    history = add_visits(
        history, jnp.array([2, 0]), jnp.array([0.75, 0.25]), jnp.array([-3.0, -1.0])
    )
    # In units of the batch's mean absolute gradient, 2, and then 4.
    history = add_visits(history, jnp.array([2, 1]), jnp.array([0.0, 1.0]), jnp.array([6.0, -2.0]))
    history = add_visits(history, jnp.array([1, 2]), jnp.array([0.0, 0.0]), jnp.array([1.0, 1.0]))
    expected = history.replace(
        visits=np.array([1, 2, 3, 0], np.int32),
        last_weight=np.float32([0.5, 0, 0, NAN]),
        mean_weight=np.float32([0.5, 1, 0.5, NAN]),
        mean_alignment=np.float32([0.5, -0.25, (1.5 - 1.5 - 1) / 3, NAN]),
    )
    chex.assert_trees_all_close(history, expected, rtol=1e-6)


def test_an_example_twice_in_a_batch_is_one_visit():
    history = empty_history(2)
    history = add_visits(history, jnp.array([1, 1, 0]), jnp.array([0.2, 0.3, 0.5]), None)
    np.testing.assert_array_equal(history.visits, [1, 1])
    assert float(history.mean_weight[1]) in (np.float32(0.2) * 3, np.float32(0.3) * 3)


def test_equal_weights_keep_equal_means_whatever_the_visits():
    history = empty_history(61)
    for other in range(1, 61):
        history = add_visits(history, jnp.array([0, other]), jnp.full(2, 1 / 3), None)
    assert history.visits[0] == 60
    np.testing.assert_array_equal(history.mean_weight, np.full(61, np.float32(1 / 3) * 2))


def test_without_a_gradient_there_is_no_alignment():
    history = add_visits(empty_history(3), jnp.array([1, 2]), jnp.array([0.5, 0.5]), None)
    np.testing.assert_array_equal(history.mean_weight, [NAN, 1, 1])
    assert np.isnan(history.mean_alignment).all()


def test_a_batch_without_any_gradient():
    history = add_visits(empty_history(2), jnp.array([0, 1]), jnp.zeros(2), jnp.zeros(2))
    np.testing.assert_array_equal(history.mean_alignment, [0, 0])
