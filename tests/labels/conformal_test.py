"""p-values, their rates and the estimate of wrong labels, against loops and simulations."""

import numpy as np
import pytest
import scipy.stats

from reweight_jax.labels import conformal

REPEATS = 300


def mean_and_error(values):
    return np.mean(values), np.std(values) / np.sqrt(len(values))


def p_values_of(scores, calibration):
    """Without weights and groups."""
    alike = [(x, np.ones(len(x)), np.zeros(len(x), int)) for x in (scores, calibration)]
    return conformal.p_values(*alike[0], *alike[1])


def test_p_values_are_those_of_a_double_loop():
    rng = np.random.default_rng(0)
    scores, calibration = rng.integers(0, 9, 40) / 2, rng.integers(0, 9, 25) / 2  # many ties
    group, own_group = rng.integers(0, 4, 40), rng.integers(0, 3, 25)  # nobody calibrates group 3
    weight, own_weight = rng.random(40), rng.random(25)
    ones, own_ones = np.ones(40), np.ones(25)
    simple = p_values_of(scores, calibration)
    grouped = conformal.p_values(scores, ones, group, calibration, own_ones, own_group)
    same = np.zeros(40, int), np.zeros(25, int)
    weighted = conformal.p_values(scores, weight, same[0], calibration, own_weight, same[1])
    for i in range(40):
        below = [calibration[j] <= scores[i] for j in range(25)]
        assert simple[i] == (1 + sum(below)) / 26
        own = [below[j] for j in range(25) if own_group[j] == group[i]]
        assert grouped[i] == (1 + sum(own)) / (1 + len(own))
        mass = sum(own_weight[j] for j in range(25) if below[j])
        expected = (mass + weight[i]) / (sum(own_weight) + weight[i])
        np.testing.assert_allclose(weighted[i], expected, rtol=1e-12)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.29])
def test_a_rate_is_exact_if_it_is_a_multiple_of_the_smallest_p_value(rate):
    # 1 / 100 is the smallest p-value of 99 scores: the mean of p <= rate is rate, not less.
    rng, flagged = np.random.default_rng(1), []
    for _ in range(REPEATS):
        p_values = p_values_of(rng.normal(size=500), rng.normal(size=99))
        flagged.append(np.mean(p_values <= rate))
    mean, error = mean_and_error(flagged)
    assert abs(mean - rate) < 3 * error
    assert conformal.num_below(rate, 99) == round(100 * rate)  # floor(0.29 * 100) is 28


def test_num_below_counts_p_values_not_above_the_rate():
    for n in (1, 5, 19, 20, 99, 100, 999):
        p_values = np.arange(1, n + 2) / (n + 1)
        for rate in (0.01, 0.05, 0.07, 0.1, 0.29, 0.3, 0.57, 0.9):
            assert conformal.num_below(rate, n) == np.sum(p_values <= rate)
    needed = {0.05: 19, 0.01: 99, 0.07: 14, 0.3: 3, 0.5: 1, 0.9: 1}
    assert {rate: conformal.min_calibration(rate) for rate in needed} == needed


def test_benjamini_hochberg_is_scipys():
    rng = np.random.default_rng(2)
    p_values = np.concatenate([rng.random(300), rng.random(100) ** 8])
    for rate in (0.01, 0.05, 0.2):
        expected = scipy.stats.false_discovery_control(p_values) <= rate
        np.testing.assert_array_equal(conformal.benjamini_hochberg(p_values, rate), expected)
        assert expected.any()
    assert not conformal.benjamini_hochberg(np.full(10, 0.5), 0.1).any()
    assert conformal.benjamini_hochberg(np.full(10, 0.1), 0.1).all()
    assert conformal.benjamini_hochberg(np.zeros(0), 0.1).shape == (0,)


def test_false_discoveries_stay_below_the_rate():
    rng, rates, recalls = np.random.default_rng(3), [], []
    is_wrong = np.arange(1000) < 300
    for _ in range(REPEATS):
        scores = rng.normal(size=1000) - 3 * is_wrong
        p_values = p_values_of(scores, rng.normal(size=100))
        flagged = conformal.benjamini_hochberg(p_values, 0.2)
        rates.append(np.sum(flagged & ~is_wrong) / max(flagged.sum(), 1))
        recalls.append(flagged[is_wrong].mean())
    mean, error = mean_and_error(rates)
    assert 0.11 < mean < 0.2 * 0.7 + 3 * error  # rate times the share of right labels
    assert np.mean(recalls) > 0.8


def test_the_bound_holds_in_nine_of_ten_calibration_sets():
    rng, n, rate = np.random.default_rng(4), 100, 0.05
    # The true rate of a threshold among normal scores is known: the normal distribution function.
    fifth = np.sort(rng.normal(size=(4000, n)), axis=1)[:, 4]  # floor(0.05 * 101) = 5
    bound = conformal.rate_bound(rate, [n], np.ones(1))
    assert abs(np.mean(scipy.stats.norm.cdf(fifth) <= bound) - 0.9) < 3 * np.sqrt(0.09 / 4000)
    assert 0.05 < bound < 0.1
    assert conformal.rate_bound(0.05, [10], np.ones(1)) == 0  # nothing is ever flagged

    shares, sizes = np.array([0.7, 0.3]), [40, 90]
    k = [2, 4]
    true = sum(
        share * scipy.stats.norm.cdf(np.sort(rng.normal(size=(4000, size)), axis=1)[:, i - 1])
        for share, size, i in zip(shares, sizes, k, strict=True)
    )
    bound = conformal.rate_bound(rate, sizes, shares)
    assert abs(np.mean(true <= bound) - 0.9) < 0.02


def estimate(scores, calibration):
    p_values = p_values_of(scores, calibration)
    own = p_values_of(calibration, calibration)
    return conformal.share_wrong([(p_values, own, np.ones(len(own)))], len(scores))


@pytest.mark.parametrize("num_calibration", [20, 100])
@pytest.mark.parametrize("share", [0.2, 0.4])
def test_the_interval_of_wrong_labels_holds_in_nine_of_ten_sets(share, num_calibration):
    rng, covered, points = np.random.default_rng(5), [], []
    is_wrong = np.arange(1000) < 1000 * share
    for _ in range(REPEATS):  # wrong labels that all look wrong
        scores = rng.normal(size=1000) - 20 * is_wrong
        got = estimate(scores, rng.normal(size=num_calibration))
        covered.append(got["low"] <= share <= got["high"])
        points.append(got["share"])
    assert np.mean(covered) > 0.87
    assert abs(np.mean(points) - share) < 0.03


def test_wrong_labels_that_look_right_make_a_low_estimate():
    rng, points = np.random.default_rng(6), []
    is_wrong = np.arange(1000) < 400
    for _ in range(REPEATS // 4):
        scores = rng.normal(size=1000) - 2 * is_wrong
        points.append(estimate(scores, rng.normal(size=100))["share"])
    # The calibration scores' 10% point, -1.28, leaves P(N(-2, 1) > -1.28) = 24% of the wrong ones,
    # which count as right, and for 1 / 0.9 of themselves: 0.4 * (1 - 0.24 / 0.9) = 0.294.
    assert abs(np.mean(points) - 0.294) < 0.02


def test_right_labels_that_were_trained_on_do_not_hide_the_wrong_ones():
    rng = np.random.default_rng(8)
    is_wrong = np.arange(1000) < 400
    scores = np.where(is_wrong, -5, 5) + rng.normal(size=1000)
    got = estimate(scores, 3 + rng.normal(size=50))
    assert 0.25 < got["low"] < got["share"] < got["high"] == 0.4


def test_no_wrong_label_and_ties():
    rng = np.random.default_rng(7)
    got = estimate(rng.normal(size=2000), rng.normal(size=200))
    assert got["low"] == 0 and got["high"] < 0.15 and got["confidence"] == 0.9
    # All right labels have one and the same score, the wrong ones a lower one.
    got = estimate(np.repeat([0.0, 1.0], [300, 700]), np.ones(200))
    assert abs(got["share"] - 0.3) < 0.01 and got["low"] <= 0.3 <= got["high"] + 0.01
    for num_calibration in (1, 2, 3):
        got = estimate(rng.normal(size=500), rng.normal(size=num_calibration))
        assert 0 <= got["low"] <= got["share"] <= got["high"] <= 1


@pytest.mark.parametrize("num_labels, num_calibration", [(100, 100), (100, 1000), (5000, 50)])
def test_right_labels_alone_exceed_the_count_in_one_of_ten_draws(num_labels, num_calibration):
    rng, exceeded = np.random.default_rng(6), []
    bound = conformal.most_flagged(0.1, np.array([num_calibration]), np.array([num_labels]))
    for _ in range(1000):
        scores, calibration = rng.normal(size=num_labels), rng.normal(size=num_calibration)
        exceeded.append(np.sum(p_values_of(scores, calibration) <= 0.1) > bound)
    assert 0.05 < np.mean(exceeded) < 0.1 + 3 * np.sqrt(0.09 / 1000)


def test_the_counts_of_groups_are_added():
    one = conformal.most_flagged(0.1, np.array([50]), np.array([400]))
    two = conformal.most_flagged(0.1, np.array([50, 50, 5]), np.array([400, 400, 9_999]))
    assert one < two < 2 * one  # groups do not exceed together; five can flag nothing
