"""The theory in numbers: the gap in Lemma 1, the rate of Theorem 2, Eq. 12."""

import functools

import jax
import numpy as np
import pytest

from reweight_jax.paper import theory
from reweight_jax.reweight import epsilon_gradient


def test_the_bounds_of_lemma_1():
    # sigma^2 = 3^2 + 4^2, L = 1/4: 2 / (25 / 4) = 0.32, and n = 4 times as much as stated.
    inputs, clean = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[1.0, 0.0]])
    assert theory.lemma_bounds(4, inputs, clean) == pytest.approx((1.28, 0.32))


def test_lemma_1_fails_for_copies_of_one_example():
    """One step from theta = -5, by hand: the stated bound 8n leads far beyond the minimum at 0."""

    def clean_loss(theta):
        return (np.logaddexp(0, theta) + np.logaddexp(0, -theta)) / 2

    p = 1 / (1 + np.exp(5.0))  # of label 1; the gradients by theta of G and of each copy:
    of_clean, of_copy = p - 0.5, p - 1
    alphas = np.array([8.0, 16.0, 64.0])
    after = -5 - alphas * (of_clean * of_copy) * of_copy
    expected = clean_loss(after) - clean_loss(-5.0)
    np.testing.assert_allclose(theory.rise_of_copies(alphas, 8), expected, rtol=1e-4)
    assert expected[0] < 0 < expected[2]
    np.testing.assert_allclose(theory.rise_of_copies(alphas, 1), expected, rtol=1e-4)


def test_random_batches_of_lemma_1():
    stated, sound = (theory.lemma_run(100, sound=sound, seed=0) for sound in (False, True))
    assert stated[0] == sound[0]
    assert np.diff(stated).max() > 1
    assert np.diff(sound).max() < 1e-6


def test_squared_gradients_are_eq_12_of_the_clean_set_with_itself():
    """|grad G|^2 = <grad G, mean of the gradients>: the mean of -Eq. 12 over the clean set."""
    options = {"num_steps": 2, "num_seeds": 2, "alpha": 1.0}
    norms, losses = theory.gradient_norms(normalized=False, **options)
    _, clean = theory.noisy_digits(100, seed=0)
    for seed in range(2):
        weights = theory.init_mlp((64, 32, 10), seed)
        by_hand = -theory.equation_12(weights, clean, clean).mean()
        assert norms[seed, 0] == pytest.approx(by_hand, rel=1e-4)
    assert (losses[:, 1] < losses[:, 0]).all()


def test_40_percent_of_the_digits_are_wrong_and_the_clean_ones_are_in_the_training_set():
    (inputs, labels), (clean_inputs, clean_labels) = theory.noisy_digits(30, seed=1)
    right = theory.noisy_digits(len(labels), seed=1)[1][1]
    assert np.sum(labels != right) == int(0.4 * 1797)
    np.testing.assert_array_equal(inputs[:30], clean_inputs)
    np.testing.assert_array_equal(labels[:30], clean_labels)


def test_slope():
    steps = np.arange(1, 1001)
    assert theory.slope(3 * steps**-0.5, 10) == pytest.approx(-0.5)


@pytest.mark.parametrize("method", ["lookahead", "jvp"])
def test_eq_12_is_what_automatic_differentiation_finds(method):
    weights = theory.init_mlp((64, 9, 8, 10), seed=0)
    (inputs, labels), clean = theory.noisy_digits(6, seed=0)
    batch = inputs[6:30], labels[6:30]
    gradient = functools.partial(epsilon_gradient, theory.mlp_losses, method=method)
    found = jax.jit(gradient)(weights, batch, clean)
    by_hand = theory.equation_12(weights, batch, clean)
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-5)
    assert by_hand.std() > 0.1
