"""Lemma 1: the loss on the trusted examples never rises."""

import numpy as np
import pytest
import small_models
from by_hand import both_methods, jitted, logistic_by_hand

from reweight_jax import epsilon_gradient


@both_methods
@pytest.mark.parametrize("n, fraction", [(1, 0.99), (8, 0.99), (8, 0.99 / 8)])
def test_lemma_1_clean_loss_never_rises(x64, n, fraction, method):
    """Eq. 30's update, unnormalised, on labels of which 45% are wrong.

    Lemma 1 asks for alpha <= 2n / (L sigma^2). Its proof (Eq. 36) bounds |sum_i a_i|^2 by
    sum_i |a_i|^2, for which n times as much is needed: what holds for every batch is
    alpha <= 2 / (L sigma^2). (Clean examples x = 1 labelled 0 and 1, theta = -5, a batch of n = 8
    copies of the second: the lemma's 64 leads to theta = 26 and a clean loss of 13, from 2.5.)
    Both bounds are tried, the decrease that goes with the smaller one is checked step by step.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    y = (x @ np.array([1.0, -2.0, 0.5]) > 0).astype(np.float64)
    clean = {"x": x[:40], "y": y[:40].copy()}
    wrong = rng.permutation(400)[:180]
    y[wrong] = 1 - y[wrong]
    gradient_fn = jitted(
        epsilon_gradient, small_models.logistic_losses, method=method, lookahead_lr=1.0
    )

    ones_x = np.c_[np.ones(400), x]
    smoothness = np.linalg.eigvalsh(ones_x[:40].T @ ones_x[:40] / 40)[-1] / 4  # sigmoid' <= 1/4
    sigma_squared = (ones_x**2).sum(1).max()  # |sigmoid - y| <= 1
    alpha = fraction * 2 * n / (smoothness * sigma_squared)

    theta = 2 * rng.normal(size=4)
    clean_losses, uphill_batches = [logistic_by_hand(theta, clean)[0].mean()], 0
    for _ in range(200):
        chosen = rng.integers(400, size=n)
        batch = {"x": x[chosen], "y": y[chosen]}
        params = {"kernel": theta[1:], "bias": theta[0]}
        useful = np.maximum(-np.asarray(gradient_fn(params, batch, clean)), 0)
        gradients = logistic_by_hand(theta, batch)[1]
        uphill_batches += gradients.sum(0) @ logistic_by_hand(theta, clean)[1].mean(0) < 0
        theta = theta - alpha / n * useful @ gradients
        clean_losses.append(logistic_by_hand(theta, clean)[0].mean())
        sure_decrease = alpha / n * (useful**2).sum() * (1 - smoothness * alpha * sigma_squared / 2)
        assert clean_losses[-1] <= clean_losses[-2] - max(sure_decrease, 0) + 1e-14
    assert clean_losses[-1] < 0.7 * clean_losses[0]
    assert uphill_batches > 20  # steps on which equal weights would have raised the clean loss
