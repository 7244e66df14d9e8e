"""scripts/benchmarks/small_tables.py: its noise, its score and its sets."""

import numpy as np
import pytest


@pytest.fixture
def script(load_script):
    return load_script("benchmarks/small_tables")


def test_noise(script):
    right = np.repeat([0, 1, 2], 4_000)
    for noise, share in (("uniform", 0.25), ("one way", 0.4 * 2 / 3)):
        wrong = (given := script.noisy(right, noise, np.random.default_rng(0))) != right
        assert wrong.mean() == pytest.approx(share, abs=0.02) and set(given) == {0, 1, 2}
    assert (given[wrong] == 0).all() and not wrong[:4_000].any()


def test_precision_of_the_worst(script):
    wrong = np.array([True, False, True, False])
    assert script.precision(np.array([0.1, 0.2, 0.3, 0.4]), wrong) == 0.5
    assert script.precision(np.array([0.1, 0.4, 0.2, 0.3]), wrong) == 1


def test_sets(script):
    for inputs, right in script.sets().values():
        assert inputs.shape == (len(right), inputs.shape[1]) and 150 <= len(right) <= 3_000
        assert set(right) == set(range(right.max() + 1))
