"""MentorNet: the mentor's self-paced weights and the moving percentile, against plain numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from noise_by_hand import weigh

from reweight_jax.methods import METHODS, mentornet


def mentor_config(percentile=50.0, num_steps=10):
    return ConfigDict({"mentor_percentile": percentile, "num_steps": num_steps})


@pytest.fixture(scope="module")
def mentor_state():
    """The method state for three classes; training the mentor takes most of this file's time."""
    return METHODS["mentornet"].init(jax.random.key(0), mentor_config(), None, 3)


def self_paced_weight(loss, percentile):
    """argmin over v in 0..1 of v * loss - percentile * v (Kumar et al., 2010), by search."""
    candidates = np.linspace(0, 1, 11)
    values = candidates * (loss - percentile)[..., None]
    return candidates[np.argmin(values, axis=-1)]


def test_self_paced_weights_minimise_their_objective():
    loss, percentile = np.random.default_rng(3).uniform(0, 10, (2, 200))
    weights = mentornet.self_paced_weights(jnp.asarray(loss - percentile))
    np.testing.assert_array_equal(weights, self_paced_weight(loss, percentile))
    assert 60 < weights.sum() < 140


@pytest.mark.slow
def test_the_trained_mentor_is_self_paced(mentor_state):
    # Differences are 0.03 off multiples of 0.25: the closest beyond 0.2 are -0.22 and 0.28.
    axes = np.linspace(0, 10, 41), np.linspace(0.03, 9.53, 20), np.arange(3), [0, 19, 99]
    loss, percentile, label, epoch = (grid.ravel() for grid in np.meshgrid(*axes))
    difference = loss - percentile
    logits = jax.jit(mentornet.Mentor(3).apply)(
        mentor_state["mentor"],
        jnp.asarray(loss, jnp.float32),
        jnp.asarray(difference, jnp.float32),
        jnp.asarray(label, jnp.int32),
        jnp.asarray(epoch, jnp.int32),
    )
    weights = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    expected = self_paced_weight(loss, percentile)
    assert 0.4 < expected.mean() < 0.6
    far = np.abs(difference) > 0.2
    np.testing.assert_array_equal(np.round(weights[far]), expected[far])
    # Measured: 1e-7 on average (2e-6 at most), at differences of 0.03 as at larger ones.
    error = np.abs(weights - expected)
    assert error[far].mean() < 1e-4 and error.mean() < 1e-3


def test_mentored_weights_and_the_moving_percentile(mentor_state):
    rng = np.random.default_rng(1)
    batches = rng.permuted(np.array([[0.1, 0.3, 0.2, 4, 6, 8]] * 3), axis=1)
    batches *= np.array([[1.0], [2.0], [0.5]])
    labels = rng.integers(3, size=6)
    state = mentor_state
    # Medians 2.15, 4.3 and 1.075, by hand: 2.15, 0.9 * 2.15 + 0.1 * 4.3, 0.9 * 2.365 + 0.1 * 1.075.
    by_hand = [2.15, 2.365, 2.236]
    moving = np.median(batches[0])  # before the first step: that of the first losses
    for step, losses in enumerate(batches):
        weights, state = weigh("mentornet", state, losses, labels, step)
        moving = 0.9 * moving + 0.1 * np.median(losses)
        np.testing.assert_allclose(moving, by_hand[step])
        np.testing.assert_allclose(state["moving_percentile"], moving, rtol=1e-5)
        if step < 2:  # burn-in is the first fifth: steps 0 and 1 of 10
            np.testing.assert_allclose(weights, [1 / 6] * 6, rtol=1e-6)
    # The last losses are 0.05, 0.1, 0.15, 2, 3, 4: only the last two are above 2.236, though three
    # are above the median of the step itself.
    np.testing.assert_allclose(weights, np.where(losses < 2.236, 1 / 4, 0), atol=1e-4)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    chex.assert_trees_all_equal(state["mentor"], mentor_state["mentor"])


def test_the_percentile_of_the_config_says_how_many_weigh(mentor_state):
    losses, labels = np.arange(6), [0, 1, 2, 0, 1, 2]
    # Percentiles of 0..5: 0.5, 1.5 and 4.5. One, two and five of the losses are below.
    for percentile, kept in ((10, 1), (30, 2), (90, 5)):
        state = mentor_state | {
            "percentile": jnp.float32(percentile),
            "moving_percentile": jnp.float32(percentile / 20),
        }
        weights, state = weigh("mentornet", state, losses, labels, 5)
        np.testing.assert_allclose(state["moving_percentile"], percentile / 20, rtol=1e-5)
        np.testing.assert_allclose(weights, np.where(losses < kept, 1 / kept, 0), atol=1e-4)
    assert float(mentor_state["percentile"]) == 50


def test_losses_beyond_those_the_mentor_was_trained_on(mentor_state):
    state = mentor_state | {"moving_percentile": jnp.float32(30.0)}
    losses = np.array([11, 20, 28, 32, 40, 100])  # their median is 30
    weights, _ = weigh("mentornet", state, losses, [0] * 6, 9)
    np.testing.assert_allclose(weights, [1 / 3] * 3 + [0] * 3, atol=1e-4)
