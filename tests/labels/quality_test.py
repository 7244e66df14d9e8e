"""Suspect labels: the rates that are promised, hand-made cases, and the notes."""

import functools
import json

import numpy as np
import pytest
import scipy.stats
from drawn_labels import classes, drawn, judge

from reweight_jax.labels import quality


@pytest.mark.parametrize(
    "by, of_training, of_calibration",
    [
        ("all", (500, 300), (38, 22)),
        ("class", (800, 200), (39, 39)),
        ("weighted", (1000, 100), (25, 25)),
    ],
)
def test_false_alarms_stay_at_the_rate(by, of_training, of_calibration):
    # Class 1 is harder. The training set's shares and, but for 'all', the trusted set's differ.
    rng, rates, chosen = np.random.default_rng(0), [], []
    for _ in range(200):
        if by == "all":  # exchangeable: drawn with the shares, not of fixed sizes
            of_calibration = rng.multinomial(60, [5 / 8, 3 / 8])
        right = drawn(rng, of_training, (0, 1))
        judged = judge(right, drawn(rng, of_calibration, (0, 1)), false_alarm_rate=0.05)
        chosen.append(judged.summary["by"])
        flagged = [judged.is_suspect[right["label"] == k].mean() for k in (0, 1)]
        rates.append([judged.is_suspect.mean(), *flagged])
    mean, error = np.mean(rates, axis=0), np.std(rates, axis=0) / np.sqrt(len(rates))
    assert np.mean(np.array(chosen) == by) > 0.98
    assert 0.03 < mean[0] < 0.05 + 2 * error[0]
    if by == "class":
        assert (mean[1:] < 0.05 + 2 * error[1:]).all()
    else:
        assert mean[2] > 0.06  # the harder class pays


def test_all_are_kept_unless_more_than_chance_are_low():
    """Of right labels alone, nearly always; of 20% wrong ones, never, and then by the margin."""
    rng, kept = np.random.default_rng(2), []
    for _ in range(100):
        trusted = drawn(rng, (25, 25), (0.5, 0.5))
        right = drawn(rng, (250, 250), (0.5, 0.5))
        judged = judge(right, trusted)
        kept.append(judged.keep.all())
        assert judged.keep.all() or (judged.keep == (right["margin"] > 0)).all()
        wrong = rng.random(500) < 0.2
        noisy = classes(right["label"], right["margin"] - 5 * wrong)
        judged = judge(noisy, trusted)
        assert judged.summary["finds_wrong"] is True
        np.testing.assert_array_equal(judged.keep, noisy["margin"] > 0)
    assert np.mean(kept) >= 0.85  # 0.9 is promised; the binomial's deviation is 0.03


def test_what_a_weak_model_says_is_told():
    rng = np.random.default_rng(4)
    trusted, examples = drawn(rng, (25, 25), (3, 3)), drawn(rng, (250, 250), (3, 3))
    examples["margin"][::3] -= 3  # of wrong labels
    judged = judge(examples, trusted)
    share = np.mean(trusted["margin"] <= 0)
    assert judged.summary["border"] < 0 and judged.summary["contradicted"]
    assert any(f"contradicts {share:.0%} of the calibration" in n for n in judged.summary["notes"])


def test_a_small_case_by_hand():
    log_p = np.log([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]])
    log_p[3] = np.nan
    examples = classes([0, 0, 1, 1, 1], [2.2, -1.4, 0.4, np.nan, 2.2], log_probability=log_p)
    trusted = classes([0, 1, 0, 1], [1, 2, 0.5, np.nan])
    judged = judge(examples, trusted, false_alarm_rate=0.3)
    np.testing.assert_allclose(judged.p_value, [1, 1 / 4, 1 / 4, 1, 1])
    np.testing.assert_array_equal(judged.is_suspect, [False, True, True, False, False])
    # Of example 2, which is a suspect, the class other than its own.
    np.testing.assert_array_equal(judged.suggested_label, [0, 1, 0, 1, 1])
    # Of 3 calibration examples none has a p-value below 1/4: they cannot say that all is well.
    assert judged.summary["finds_wrong"] is None
    np.testing.assert_array_equal(judged.keep, [True, False, True, False, True])
    np.testing.assert_array_equal(judged.order, [1, 2, 0, 4, 3])  # 0 and 4 are equal, 3 is unseen
    np.testing.assert_allclose(judged.label_quality[[0, 1]], 1 / (1 + np.exp([-2.2, 1.4])))
    assert np.isnan(judged.label_quality[3])
    summary = json.loads(json.dumps(judged.summary))
    assert summary["num_calibration"] == 3 and summary["num_suspects"] == 2
    assert summary["rule"] == "false_alarm_rate" and summary["rate"] == 0.3
    assert summary["per_class"] == [
        {"label": 0, "examples": 2, "suspects": 1},
        {"label": 1, "examples": 3, "suspects": 1},
    ]
    assert summary["pairs"] == [
        {"given": 0, "suggested": 1, "count": 1},
        {"given": 1, "suggested": 0, "count": 1},
    ]
    assert summary["notes"][0] == "1 of 5 examples are not judged: in no batch."
    assert "Only 3 calibration examples" in summary["notes"][1]
    np.testing.assert_allclose(summary["rate_90"], scipy.stats.beta.ppf(0.9, 1, 3))


@pytest.mark.parametrize("calibrated", [True, False])
def test_what_is_trusted_counts_for_nothing(calibrated):
    rng = np.random.default_rng(5)
    calibration = drawn(rng, (25, 25), (3, 3)) if calibrated else None
    examples = drawn(rng, (150, 150), (3, 3))
    examples["margin"][::3] -= 6
    alone = judge(examples, calibration)
    trusted = classes([0, 1, 0], [-9, -9, 9])  # the model contradicts two of them
    together = {name: np.concatenate([examples[name], trusted[name]]) for name in trusted}
    judged = judge(together | {"is_trusted": np.arange(303) >= 300}, calibration)
    np.testing.assert_array_equal(judged.is_suspect, [*alone.is_suspect, *[False] * 3])
    np.testing.assert_array_equal(judged.keep, [*alone.keep, *[True] * 3])
    assert judged.summary["wrong"] == alone.summary["wrong"]
    if calibrated:
        np.testing.assert_array_equal(judged.p_value, [*alone.p_value, 1, 1, 1])


def test_without_log_probabilities_the_other_class_is_unknown():
    judged = judge(classes([0, 1, 1], [1, -1, np.nan]), None)
    np.testing.assert_array_equal(judged.suggested_label, [0, -1, 1])
    assert judged.summary["pairs"] == []


def test_without_calibration_a_plain_threshold_and_a_note():
    judged = judge(classes([0, 1, 0], [1, -1, np.nan]), None)
    assert judged.p_value is None and judged.summary["wrong"] is None
    assert judged.summary["rule"] == "margin" and judged.summary["rate"] is None
    np.testing.assert_array_equal(judged.is_suspect, [False, True, False])
    np.testing.assert_array_equal(judged.order, [1, 0, 2])
    assert "config.data.num_calibration" in judged.summary["notes"][-1]
    none_known = judge(classes([0, 1], [1, -1]), classes([0], [np.nan]))
    assert none_known.p_value is None


def test_notes_say_what_few_calibration_examples_can_support():
    rng = np.random.default_rng(2)
    examples = drawn(rng, (50, 50), (0, 0))
    (note,) = judge(examples, drawn(rng, (5, 5), (0, 0))).summary["notes"]
    assert "1/11" in note and "9.1%" in note and "needs 19" in note
    (note,) = judge(examples, drawn(rng, (7, 8), (0, 0)), false_alarm_rate=0.1).summary["notes"]
    assert "1/16" in note and "nothing" not in note
    judged = judge(examples, drawn(rng, (15, 15), (0, 0)), false_alarm_rate=0.01)
    assert "needs 99" in judged.summary["notes"][0] and judged.summary["rate_90"] == 0
    assert judge(examples, drawn(rng, (30, 30), (0, 0))).summary["notes"] == []
    judged = judge(examples, drawn(rng, (40, 40), (0, 0)), false_discovery_rate=0.1)
    assert not judged.is_suspect.any() and judged.summary["rate_90"] is None
    assert "12.3% of the labels score below" in judged.summary["notes"][0]
    weighted = judge(drawn(rng, (2000, 60), (0, 0)), drawn(rng, (30, 30), (0, 0)))
    assert weighted.summary["by"] == "weighted" and weighted.summary["rate_90"] is None
    assert "worth 36" in weighted.summary["notes"][0]
    one_class = judge(drawn(rng, (50, 50), (0, 0)), drawn(rng, (60, 0), (0, 0)))
    assert "No calibration example of class 1" in one_class.summary["notes"][-1]


def test_wrong_labels_are_discovered_and_none_where_all_are_right():
    rng = np.random.default_rng(3)
    trusted, examples = drawn(rng, (50, 50), (0, 0)), drawn(rng, (1000, 1000), (0, 0))
    options = {"false_discovery_rate": 0.1}
    assert judge(examples, trusted, **options).summary["num_suspects"] == 0
    wrong = np.arange(2000) % 4 == 0
    examples["margin"] -= 8 * wrong
    judged = judge(examples, trusted, **options)
    assert judged.summary["rule"] == "false_discovery_rate"
    assert judged.is_suspect[wrong].all() and np.mean(~wrong[judged.is_suspect]) < 0.2
    found = judged.summary["wrong"]
    assert found["low"] < 0.25 < found["high"] and abs(found["share"] - 0.25) < 0.1


def test_the_estimate_uses_groups_and_weights():
    rng, got = np.random.default_rng(4), {"class": [], "weighted": []}
    for _ in range(60):
        for by, of_training, of_calibration in (
            ("class", (800, 200), (60, 60)),
            ("weighted", (1500, 150), (30, 30)),
        ):
            examples = drawn(rng, of_training, (0, 1))
            wrong = rng.random(sum(of_training)) < 0.3
            examples["margin"] -= 9 * wrong
            summary = judge(examples, drawn(rng, of_calibration, (0, 1))).summary
            assert summary["by"] == by
            found, share = summary["wrong"], wrong.mean()
            got[by].append((found["share"] - share, found["low"] <= share <= found["high"]))
    for by, found in got.items():
        error, covered = np.mean(found, axis=0)
        assert abs(error) < 0.04 and covered > 0.8, by


def test_the_worst_known_tag_judges_an_example():
    label = np.array([[1, 0, -1], [1, 1, 0], [-1, -1, -1]])
    margin = np.array([[2.0, 1.0, -9.0], [-3.0, 0.5, -1.0], [0.0, 0.0, 0.0]])
    trusted = {"label": np.tile([1, 0, -1], (30, 1)), "margin": np.tile([1.5, 0.7, -5], (30, 1))}
    judged = quality.judge(
        {"label": label, "margin": margin}, trusted, task="multi_label", num_outputs=3
    )
    np.testing.assert_allclose(judged.p_value, [1, 1 / 31, 1])
    np.testing.assert_array_equal(judged.is_suspect, [False, True, False])
    np.testing.assert_array_equal(judged.suggested_label, [[1, 0, -1], [0, 1, 1], [-1, -1, -1]])
    np.testing.assert_allclose(judged.label_quality[:2], 1 / (1 + np.exp([-1, 3])))
    assert np.isnan(judged.label_quality[2]) and "no known tag" in judged.summary["notes"][0]
    assert "per_class" not in judged.summary


@pytest.mark.parametrize("dimensions", [1, 3])
def test_regression(dimensions):
    rng = np.random.default_rng(5)
    error = rng.normal(size=(20_000, dimensions))
    wrong = np.arange(len(error)) < 100
    error[wrong] += 30
    prediction = rng.normal(size=error.shape)
    label = (prediction + error)[:, 0] if dimensions == 1 else prediction + error
    examples = {"label": label, "margin": -np.linalg.norm(error, axis=1), "prediction": prediction}
    regress = functools.partial(quality.judge, task="regression", num_outputs=dimensions)
    judged = regress(examples, None)
    assert judged.is_suspect[wrong].all() and judged.label_quality[wrong].max() < 1e-6
    # 3 standard deviations: 0.27% of normal errors lie beyond.
    assert 0.0015 < judged.is_suspect[~wrong].mean() < 0.004
    assert "3 standard deviations" in judged.summary["notes"][-1]
    np.testing.assert_array_equal(judged.keep, ~judged.is_suspect)
    helpful = regress(examples | {"alignment": np.where(wrong, -1.0, 1.0)}, None)
    np.testing.assert_array_equal(helpful.keep, ~wrong)
    np.testing.assert_array_equal(
        judged.suggested_label, prediction[:, 0] if dimensions == 1 else prediction
    )
    trusted = {"label": label[-300:], "margin": examples["margin"][-300:]}
    del examples["prediction"]
    judged = regress(examples, trusted)
    assert 0.02 < judged.is_suspect[~wrong].mean() < 0.09
    np.testing.assert_array_equal(judged.suggested_label, label)
    assert set(judged.order[: wrong.sum()]) == set(np.flatnonzero(wrong))


@pytest.mark.parametrize(
    "options, named",
    [
        ({"false_alarm_rate": 0}, "false_alarm_rate"),
        ({"false_discovery_rate": 1}, "false_discovery_rate"),
        ({"task": "ranking"}, "task"),
    ],
)
def test_bad_options(options, named):
    with pytest.raises(ValueError, match=named):
        judge(classes([0, 1], [1, 1]), None, **options)


def test_a_million_examples_have_no_matrix_with_the_calibration_set():
    rng = np.random.default_rng(6)
    label = rng.integers(0, 10, 1_000_000, dtype=np.int32)
    examples = classes(label, rng.normal(size=len(label)))
    trusted = classes(np.arange(2000) % 10, rng.normal(size=2000))
    judged = quality.judge(examples, trusted, task="classification", num_outputs=10)
    assert judged.summary["by"] == "class" and abs(judged.is_suspect.mean() - 0.05) < 0.02


def test_if_all_labels_look_wrong_the_rate_has_a_bound_all_the_same():
    rng = np.random.default_rng(9)
    trusted = drawn(rng, (60, 60), (0, 0))
    right = drawn(rng, (200, 200), (0, 0))
    judged = judge(classes(right["label"], right["margin"] - 20), trusted)
    assert judged.summary["by"] == "class" and judged.is_suspect.all()
    assert 0.05 < judged.summary["rate_90"] < 0.2


def test_notes_have_the_names_of_classes():
    judged = judge(
        classes([0, 1, 2] * 20, [1.0] * 60), classes([0, 1] * 15, [1.0] * 30),
        num_outputs=3, classes=("cat", "dog", "owl"),
    )  # fmt: skip
    assert any("No calibration example of class owl:" in t for t in judged.summary["notes"])
