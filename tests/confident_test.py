"""A stand-in for a trusted set."""

import jax
import numpy as np
import pytest

from reweight_jax import UserError, fit
from reweight_jax.confident import confident_rows

SMALL = {"progress": False, "plots": False, "devices": jax.devices()[:1], "batch_size": 20}
SMALL |= {"num_steps": 40, "learning_rate": 0.05, "model_fields": {"hidden": (8,)}}


def test_the_surest_of_each_class_that_also_win():
    """Four of each class, two asked for: a probability below another class's does not count."""
    label = np.repeat([0, 1], 4)
    p = np.array([0.9, 0.6, 0.8, 0.3, 0.45, 0.99, 0.2, 0.7])  # of the own label
    table = np.stack([np.where(label == 0, p, 1 - p), np.where(label == 1, p, 1 - p)], 1)
    seen = []

    def predict(train, held_out):
        assert not set(train) & set(held_out) and len(train) + len(held_out) == 8
        seen.extend(held_out)
        return table[held_out]

    rows = confident_rows(predict, label, 2, 4, seed=0)
    assert sorted(seen) == list(range(8))
    np.testing.assert_array_equal(rows, [0, 2, 5, 7])
    np.testing.assert_array_equal(confident_rows(predict, label, 2, 100, seed=0), [0, 1, 2, 5, 7])


@pytest.mark.slow
def test_under_uniform_noise_it_helps_without_a_trusted_set():
    """On the mean of three draws: one of 400 points scatters by 0.03, and with rounding too."""
    accuracy = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(400, 2))
        right = np.where(x[:, 0] > 0, "right", "left")
        wrong = rng.random(400) < 0.3
        y = np.where(wrong, np.where(right == "left", "right", "left"), right)
        run = fit(None, (x, y), clean="confident", data={"num_clean": 40}, **SMALL)
        accuracy.append(np.mean(np.array(run.classes)[run.predict(x).argmax(1)] == right))
        assert run.result["labels"]["rule"] == "margin"  # no p-values
        assert wrong[run.suspects()["index"][:50]].mean() > 0.8
        np.testing.assert_array_equal(run.examples["index"], np.arange(400))
    assert np.mean(accuracy) > 0.9, accuracy


@pytest.mark.parametrize("clean, task", [("sure", "classification"), ("confident", "regression")])
def test_what_it_is_not_for(clean, task):
    x = np.zeros((40, 2))
    with pytest.raises(UserError, match="fit: clean: .*must be a pair"):
        fit(None, (x, x[:, 0]), clean=clean, task=task, **SMALL)
