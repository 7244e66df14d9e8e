"""How calibration is compared with training: all together or weighted by class, and the border."""

import functools

import numpy as np
import pytest
from drawn_labels import classes, drawn, judge

from reweight_jax.labels import quality
from reweight_jax.labels.calibrated import border, contradicts


def test_unweighted_calibration_would_break_the_rate():
    # The same as 'weighted' above: the balanced set's threshold is far too low for class 0.
    rng = np.random.default_rng(0)
    right, trusted = drawn(rng, (1000, 100), (2, 0)), drawn(rng, (500, 500), (2, 0))
    simple = np.quantile(trusted["margin"], 0.1)
    assert np.mean(right["margin"] <= simple) > 0.14


def test_a_balanced_set_is_not_weighted_by_chance_and_background_noise_neither():
    rng, shares, estimates = np.random.default_rng(1), np.full(10, 0.1), []
    for _ in range(50):
        trusted = drawn(rng, rng.multinomial(50, shares), np.zeros(10))
        right = drawn(rng, rng.multinomial(2000, shares), np.zeros(10))
        of_ten = functools.partial(quality.judge, task="classification", num_outputs=10)
        assert of_ten(right, trusted).summary["by"] == "all"
        moved = rng.random(2000) < 0.4
        noisy = np.where(moved, 0, right["label"])
        wrong = noisy != right["label"]
        noisy = classes(noisy, right["margin"] - 6 * wrong)
        assert np.mean(noisy["label"] == 0) > 0.4
        judged = of_ten(noisy, drawn(rng, np.full(10, 5), np.zeros(10)))
        assert judged.summary["by"] == "all"
        estimates.append(judged.summary["wrong"]["share"] - np.mean(wrong))
    assert abs(np.mean(estimates)) < 0.03


def test_the_border_is_below_zero_only_if_right_labels_are_clearly_contradicted():
    # A binomial test at 5% against 0.75: of 30 at least 18 must be right, of 100 at least 68.
    for n, right in ((30, 18), (100, 68), (19, 0)):
        margins = np.r_[np.ones(right), -np.ones(n - right)]
        assert not contradicts(margins)
    poor = np.r_[np.ones(67), -np.ones(33)]
    assert contradicts(poor) and border(np.linspace(-3, 3, 50), poor) < 0


def test_the_border_is_where_the_shares_below_it_differ_most():
    rng = np.random.default_rng(3)
    for _ in range(20):
        right, calibration = rng.normal(-0.5, 1, 300), rng.normal(-0.5, 1, 60)
        score = np.r_[right, rng.normal(-2.5, 1, 200)]
        got = border(score, calibration)
        assert -3 < got <= 0

        def gap(at):
            return np.mean(score <= at) - np.mean(calibration <= at)  # noqa: B023

        best = max(gap(at) for at in np.r_[score, calibration])
        assert got < 0 and gap(got) == pytest.approx(best)
    # Nor is it ever above 0, where the model itself believes the labels.
    assert border(np.ones(50), np.r_[np.full(60, 5.0), -np.ones(40)]) == 0
    # Without wrong labels nothing is below it.
    same = rng.normal(-1, 1, 60)
    assert (same > border(same, same)).all()


def test_a_poor_model_does_not_say_which_classes_there_are():
    """It believes no label of class 0: shares of labels that look right would call all suspect."""
    rng = np.random.default_rng(6)
    examples, trusted = (drawn(rng, (n, n), (6, 0)) for n in (500, 40))
    trusted["label"] = np.repeat([0, 1], 40)
    judged = judge(examples, {name: values[10:70] for name, values in trusted.items()})
    assert judged.summary["by"] == "all"
    assert judged.is_suspect.mean() < 0.12 and judged.p_value.min() >= 1 / 61


def test_a_class_that_cannot_be_flagged_is_named():
    """One class has 90% of the labels: a calibration set with 10 of each hardly knows it."""
    rng = np.random.default_rng(8)
    right = drawn(rng, (1800, *[20] * 9), [0] * 10)
    wrong = classes(right["label"], np.where(rng.random(len(right["label"])) < 0.1, -10, 3.0))
    judge10 = functools.partial(judge, num_outputs=10, classes=tuple("abcdefghij"))
    judged = judge10(wrong, drawn(rng, [10] * 10, [0] * 10))
    assert judged.summary["by"] == "weighted"
    lowest = judged.p_value[wrong["label"] == 0].min()
    assert lowest > 0.05 and not judged.is_suspect[wrong["label"] == 0].any()
    note = f"No label of class a can be suspect at 0.05: the smallest p-value there is {lowest:.2g}"
    assert any(text.startswith(note) for text in judged.summary["notes"]), judged.summary["notes"]
    judged = judge10(wrong, drawn(rng, [50] * 10, [0] * 10), false_alarm_rate=0.08)
    assert judged.is_suspect[wrong["label"] == 0].any()
    assert not any("can be suspect" in text for text in judged.summary["notes"])


def test_few_weighted_examples_find_nothing():
    """30 examples of ten classes are worth 6 if one class has 90% of the labels: one p-value of 0.1
    or less would be a discovery."""
    rng = np.random.default_rng(3)
    right = drawn(rng, (1800, *[20] * 9), [0] * 10)
    judged = judge(right, drawn(rng, [3] * 10, [0] * 10), num_outputs=10)
    assert judged.summary["by"] == "weighted" and judged.summary["finds_wrong"] is None


def test_a_set_drawn_by_class_is_weighted_for_a_training_set_that_is_not_even():
    """Class 0 is hard and three times as frequent: unweighted, 11% of right labels are flagged."""
    rng, flagged, by = np.random.default_rng(3), [], []
    shares, offset = np.r_[0.29, np.full(9, 0.71 / 9)], np.r_[2.0, np.zeros(9)]
    for _ in range(100):
        right = drawn(rng, rng.multinomial(2000, shares), offset)
        judged = quality.judge(
            right, drawn(rng, np.full(10, 10), offset), task="classification", num_outputs=10
        )
        by.append(judged.summary["by"])
        assert by[-1] == "all" or judged.summary["rate_90"] is None
        flagged.append(judged.is_suspect.mean())
    assert np.mean(flagged) <= 0.05 + np.std(flagged) / 10
    assert by.count("weighted") >= 90


def test_a_model_that_errs_too_often_to_weight_says_so():
    rng, shares = np.random.default_rng(3), np.r_[0.5, np.full(9, 0.5 / 9)]
    offset = np.full(10, 3.0)
    judged = quality.judge(
        drawn(rng, rng.multinomial(2000, shares), offset),
        drawn(rng, np.full(10, 10), offset),
        task="classification",
        num_outputs=10,
    )
    assert judged.summary["by"] == "all" and judged.summary["rate_90"] is None
    assert any("errs too often to weight them" in note for note in judged.summary["notes"])


@pytest.mark.parametrize(
    ("num_classes", "each", "size"), [(100, 1, 1000), (50, 2, 5000), (20, 2, 400)]
)
def test_even_sets_of_many_classes_are_not_weighted_by_chance(num_classes, each, size):
    rng, easy, weighted = np.random.default_rng(5), np.full(num_classes, 0.96), 0
    for _ in range(50):
        right = drawn(rng, rng.multinomial(size, np.full(num_classes, 1 / num_classes)), easy)
        judged = quality.judge(
            right, drawn(rng, np.full(num_classes, each), easy),
            task="classification", num_outputs=num_classes,
        )  # fmt: skip
        weighted += judged.summary["by"] == "weighted"
    assert weighted <= 2
