"""The methods for noisy labels: Reed, the oracle and plain training, against plain numpy."""

from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from noise_by_hand import LABELS, LOGITS, examples, gradient, log_softmax, slopes, weigh

from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS

# --- Reed -----------------------------------------------------------------------------------------


def soft_bootstrap(logits, labels):
    """Equation 6 of Reed et al.: -sum_k (beta t_k + (1 - beta) q_k) log q_k, beta = 0.95."""
    log_q = log_softmax(logits)
    return -np.sum((0.95 * np.eye(3)[labels] + 0.05 * np.exp(log_q)) * log_q, axis=1)


def hard_target(logits, labels):
    """beta t + (1 - beta) z of their equation 7, beta = 0.8 and z the predicted class."""
    return 0.8 * np.eye(3)[labels] + 0.2 * np.eye(3)[np.argmax(logits, axis=1)]


def hard_bootstrap(logits, labels):
    return -np.sum(hard_target(logits, labels) * log_softmax(logits), axis=1)


@pytest.mark.parametrize(
    "name, expected",
    # q = (3/4, 1/4), ln q = (-0.287682, -1.386294), label 1.
    # Soft: 0.95 * 1.386294 + 0.05 * (0.75 * 0.287682 + 0.25 * 1.386294) = 1.316980 + 0.028117.
    # Hard: 0.8 * 1.386294 + 0.2 * 0.287682 = 1.109035 + 0.057536.
    [("reed_soft", 1.345096), ("reed_hard", 1.166572)],
)
def test_reed_by_hand(name, expected):
    losses = METHODS[name].loss(jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([1]), ())
    np.testing.assert_allclose(losses, [expected], atol=2e-6)


@pytest.mark.parametrize(
    "name, reference", [("reed_soft", soft_bootstrap), ("reed_hard", hard_bootstrap)]
)
def test_reed_against_numpy(name, reference):
    losses = METHODS[name].loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), ())
    chex.assert_shape(losses, (6,))
    np.testing.assert_allclose(losses, reference(LOGITS, LABELS), rtol=1e-5)
    expected = slopes(lambda z: reference(z, LABELS).sum(), LOGITS)
    np.testing.assert_allclose(gradient(name, LOGITS, LABELS), expected, rtol=1e-4, atol=1e-6)


def test_reed_soft_differentiates_its_target():
    # If the target were a constant, the gradient would be q - target.
    q = np.exp(log_softmax(LOGITS))
    constant_target = q - (0.95 * np.eye(3)[LABELS] + 0.05 * q)
    difference = np.abs(gradient("reed_soft", LOGITS, LABELS) - constant_target)
    # The target's own derivative adds -0.05 q_k (log q_k - sum_j q_j log q_j).
    log_q = np.log(q)
    added = 0.05 * q * (log_q - np.sum(q * log_q, axis=1, keepdims=True))
    np.testing.assert_allclose(difference, np.abs(added), atol=1e-6)
    assert np.abs(added).max() > 0.005


def test_reed_hard_takes_its_target_as_constant():
    expected = np.exp(log_softmax(LOGITS)) - hard_target(LOGITS, LABELS)
    np.testing.assert_allclose(gradient("reed_hard", LOGITS, LABELS), expected, atol=1e-6)


def test_hard_bootstrap_is_cross_entropy_if_the_prediction_is_the_label():
    labels = np.argmax(LOGITS, axis=1)
    expected = -log_softmax(LOGITS)[np.arange(6), labels]
    losses = METHODS["reed_hard"].loss(jnp.asarray(LOGITS), jnp.asarray(labels), ())
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["reed_soft", "reed_hard", "s_model"])
def test_losses_of_extreme_logits_are_finite(name):
    state = METHODS[name].init(jax.random.key(0), ConfigDict(), None, 3)
    logits = jnp.array([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]])
    assert np.isfinite(METHODS[name].loss(logits, jnp.array([2, 2]), state)).all()
    assert np.isfinite(gradient(name, logits, [2, 2], state)).all()


# --- oracle ---------------------------------------------------------------------------------------


def test_weighted_knows_the_clean_fraction_of_each_label():
    # Label 0: two of three are right; 1: both; 2: the only one is wrong; 3: no example, so 1.
    train = examples([0, 0, 0, 1, 1, 2], [0, 1, 0, 1, 1, 0])
    fractions = METHODS["weighted"].init(jax.random.key(0), ConfigDict(), train, 4)
    exact = [Fraction(2, 3), Fraction(1), Fraction(0), Fraction(1)]
    np.testing.assert_allclose(fractions, [float(f) for f in exact], rtol=1e-6)
    batch = [0, 1, 2, 3, 0]
    total = sum(exact[k] for k in batch)  # 10/3
    expected = [float(exact[k] / total) for k in batch]  # 2, 3, 0, 3 and 2 tenths
    np.testing.assert_allclose(expected, [0.2, 0.3, 0, 0.3, 0.2])
    weights, state = weigh("weighted", fractions, [9, 1, 5, 0, 2], batch)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    chex.assert_trees_all_equal(state, fractions)
    with pytest.raises(UserError, match="^config.method: weighted needs the true label"):
        METHODS["weighted"].init(
            jax.random.key(0), ConfigDict(), train._replace(true_label=None), 4
        )
    # No label of the batch can be right: all weights are zero, and nothing is NaN.
    np.testing.assert_array_equal(weigh("weighted", fractions, [1, 2], [2, 2])[0], [0, 0])


# --- plain ----------------------------------------------------------------------------------------


def test_clean_only_is_plain_training_on_the_clean_set():
    method = METHODS["clean_only"]
    assert method.trains_on_clean and not method.needs_clean
    assert [name for name in METHODS if METHODS[name].trains_on_clean] == ["clean_only"]
    weights, state = weigh("clean_only", (), [5, 1, 0, 2], [0, 1, 2, 2])
    np.testing.assert_array_equal(weights, [0.25] * 4)
    assert state == () and method.loss is None  # the task's loss
