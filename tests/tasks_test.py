"""Tasks: losses, margins and scores against numpy, scipy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from reweight_jax.tasks import TASKS

NUM_EXAMPLES = 40


def random_task(name, num_outputs, seed=0, n=NUM_EXAMPLES):
    """(task, outputs [n, K], labels) of random numbers; a fifth of the tags are missing."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(scale=2, size=(n, num_outputs)).astype(np.float32)
    if name == "classification":
        labels = rng.integers(num_outputs, size=n).astype(np.int32)
    elif name == "multi_label":
        labels = rng.choice([0, 1, -1], p=[0.4, 0.4, 0.2], size=(n, num_outputs)).astype(np.int32)
        labels[0] = -1
    else:
        labels = (50 + 7 * rng.normal(size=(n, num_outputs))).astype(np.float32)
        labels = labels[:, 0] if num_outputs == 1 else labels
    return TASKS[name](labels, num_outputs), outputs, labels


CASES = [
    ("classification", 2),
    ("classification", 5),
    ("multi_label", 1),
    ("multi_label", 2),
    ("multi_label", 6),
    ("regression", 1),
    ("regression", 3),
]
all_cases = pytest.mark.parametrize("name, num_outputs", CASES)


def test_every_task_is_tested():
    assert {name for name, _ in CASES} == set(TASKS)


@all_cases
def test_shapes_and_names(name, num_outputs):
    task, outputs, labels = random_task(name, num_outputs)
    assert (task.name, task.num_outputs) == (name, num_outputs)
    n = len(labels)
    assert jax.jit(task.loss)(outputs, labels).shape == (n,)
    assert jax.jit(task.error)(outputs, labels).shape == (n,)
    margin = jax.jit(task.margin)(outputs, labels)
    assert margin.shape == (labels.shape if name == "multi_label" else (n,))
    predicted = jax.jit(task.predict)(outputs)
    assert predicted.shape == ((n,) if name == "regression" and num_outputs == 1 else outputs.shape)
    scores = task.scores(outputs, labels)
    assert {"loss", task.goodness} <= set(scores)
    assert all(type(score) is float for score in scores.values())


@all_cases
def test_scores_agree_with_the_losses_and_errors(name, num_outputs):
    """What is computed on the device in float32, and on the host in float64."""
    task, outputs, labels = random_task(name, num_outputs)
    scores = task.scores(outputs, labels)
    rows = labels.max(axis=1) >= 0 if name == "multi_label" else slice(None)
    losses, errors = task.loss(outputs, labels), task.error(outputs, labels)
    np.testing.assert_allclose(scores["loss"], np.mean(losses[rows]), rtol=1e-5)
    if name != "multi_label":  # there a row counts by its known tags in scores
        error = scores["mae" if name == "regression" else "error"]
        np.testing.assert_allclose(error, np.mean(errors), rtol=1e-5)


@all_cases
def test_what_is_remembered_of_the_outputs(name, num_outputs):
    """Log-probabilities; values in the units of the labels; of tags nothing beside the margins."""
    task, outputs, labels = random_task(name, num_outputs)
    remembered = {key: jax.jit(function)(outputs) for key, function in task.remembered.items()}
    expected = {}
    if name == "classification":
        expected["log_probability"] = scipy.special.log_softmax(np.float64(outputs), axis=1)
    if name == "regression":  # [n, K] also if the labels are [n]
        columns = np.float64(labels).reshape(len(labels), -1)
        expected["prediction"] = outputs * columns.std(axis=0) + columns.mean(axis=0)
    assert remembered.keys() == expected.keys()
    for key, values in expected.items():
        assert remembered[key].shape == outputs.shape
        np.testing.assert_allclose(remembered[key], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_outputs", [2, 5])
def test_the_log_probabilities_have_the_margin(num_outputs):
    task, outputs, labels = random_task("classification", num_outputs)
    log_p, rows = np.array(task.remembered["log_probability"](outputs)), range(len(labels))
    of_label = log_p[rows, labels]
    log_p[rows, labels] = -np.inf
    np.testing.assert_allclose(
        task.margin(outputs, labels), of_label - log_p.max(axis=1), rtol=1e-4, atol=1e-5
    )


@all_cases
def test_gradients_are_those_of_finite_differences(name, num_outputs):
    task, outputs, labels = random_task(name, num_outputs, n=6)
    direction = np.random.default_rng(1).normal(size=outputs.shape).astype(np.float32)
    pushed = jax.jvp(lambda z: task.loss(z, labels), (outputs,), (direction,))[1]
    step = 1e-2
    ahead, behind = (task.loss(outputs + sign * step * direction, labels) for sign in (1, -1))
    np.testing.assert_allclose(pushed, (ahead - behind) / (2 * step), rtol=2e-2, atol=2e-3)


# --- classification -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_outputs", [2, 5])
def test_classification(num_outputs):
    task, outputs, labels = random_task("classification", num_outputs)
    p = np.exp(np.float64(outputs))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(task.predict(outputs), p, rtol=1e-4)
    of_label = p[np.arange(len(labels)), labels]
    np.testing.assert_allclose(task.loss(outputs, labels), -np.log(of_label), rtol=1e-4, atol=1e-6)
    best_other = [max(np.delete(row, label)) for row, label in zip(p, labels, strict=True)]
    np.testing.assert_allclose(
        task.margin(outputs, labels), np.log(of_label / best_other), rtol=1e-4, atol=1e-5
    )
    wrong = p.argmax(axis=1) != labels
    np.testing.assert_array_equal(task.error(outputs, labels), wrong)
    np.testing.assert_array_equal(task.margin(outputs, labels) < 0, wrong)
    scores = task.scores(outputs, labels)
    np.testing.assert_allclose(
        scores["loss"], sklearn.metrics.log_loss(labels, p, labels=range(num_outputs))
    )
    assert scores["accuracy"] == sklearn.metrics.accuracy_score(labels, p.argmax(axis=1))
    assert scores["error"] == wrong.sum() / len(labels)


def test_classification_of_large_logits_stays_finite():
    outputs = np.float32([[1e4, 0], [-1e4, 0], [0, 3e38]])
    task, labels = TASKS["classification"](None, 2), np.int32([1, 1, 1])
    np.testing.assert_allclose(task.loss(outputs, labels), [1e4, 0, 0])
    np.testing.assert_allclose(task.margin(outputs, labels), [-1e4, 1e4, np.float32(3e38)])
    assert np.isfinite(task.scores(outputs, labels)["loss"])


def test_one_class_is_not_a_classification():
    with pytest.raises(ValueError, match="num_outputs: 1; classification needs at least 2"):
        TASKS["classification"](np.zeros(3, np.int32), 1)


# --- multi_label ----------------------------------------------------------------------------------


def test_multi_label_by_hand():
    task = TASKS["multi_label"](None, 3)
    outputs = np.float32([[2, -1, 0.5], [2, -1, 0.5], [-3, 4, 1]])
    labels = np.int32([[1, 1, -1], [-1, -1, -1], [0, 0, 1]])

    def cross_entropy(z, y):
        p = scipy.stats.logistic.cdf(z)
        return -np.log(p if y else 1 - p)

    losses = [
        (cross_entropy(2, 1) + cross_entropy(-1, 1)) / 2,
        0,
        (cross_entropy(-3, 0) + cross_entropy(4, 0) + cross_entropy(1, 1)) / 3,
    ]
    np.testing.assert_allclose(task.loss(outputs, labels), losses, rtol=1e-5)
    np.testing.assert_allclose(task.error(outputs, labels), [1 / 2, 0, 1 / 3], rtol=1e-6)
    margin = [[2, -1, 0], [0, 0, 0], [3, -4, 1]]
    np.testing.assert_array_equal(task.margin(outputs, labels), margin)
    scores = task.scores(outputs, labels)
    assert scores["error"] == 2 / 5 and scores["accuracy"] == 1 - 2 / 5
    np.testing.assert_allclose(scores["loss"], (losses[0] + losses[2]) / 2, rtol=1e-6)
    # Tag 0: one right of one. Tag 1: one missed, one wrong. Tag 2: one right of one.
    np.testing.assert_allclose(scores["macro_f1"], (1 + 0 + 1) / 3)


def test_missing_tags_have_no_gradient():
    task, outputs, labels = random_task("multi_label", 6)
    gradient = jax.grad(lambda z: jnp.sum(task.loss(z, labels)))(outputs)
    np.testing.assert_array_equal(gradient == 0, labels == -1)
    known = np.maximum((labels >= 0).sum(axis=1, keepdims=True), 1)
    expected = np.where(labels >= 0, scipy.stats.logistic.cdf(outputs) - labels, 0) / known
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    far = np.where(labels == -1, np.float32(np.inf), outputs)  # a diverged output nobody asks for
    np.testing.assert_allclose(task.loss(far, labels), task.loss(outputs, labels), rtol=1e-6)


def test_macro_f1_is_that_of_scikit_learn():
    task, outputs, labels = random_task("multi_label", 6)
    expected = []
    for k in range(6):
        known = labels[:, k] >= 0
        expected.append(sklearn.metrics.f1_score(labels[known, k], outputs[known, k] > 0))
    np.testing.assert_allclose(task.scores(outputs, labels)["macro_f1"], np.mean(expected))
    labels = np.where(labels < 0, 0, labels)
    labels[:, 2], outputs[:, 2] = 0, -1  # a tag that is neither present nor predicted
    np.testing.assert_allclose(
        task.scores(outputs, labels)["macro_f1"],
        sklearn.metrics.f1_score(labels, outputs > 0, average="macro", zero_division=np.nan),
    )
    assert task.scores(-np.ones((2, 6)), np.zeros((2, 6), int))["macro_f1"] == 0


def test_scores_need_a_known_tag():
    with pytest.raises(ValueError, match="all tags are missing"):
        TASKS["multi_label"](None, 2).scores(np.zeros((3, 2)), np.full((3, 2), -1))


# --- regression -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_regression(num_outputs):
    task, outputs, train_labels = random_task("regression", num_outputs)
    columns = train_labels.reshape(NUM_EXAMPLES, -1)
    rng = np.random.default_rng(3)
    labels = (columns + rng.normal(size=columns.shape)).astype(np.float32)  # another split
    labels = labels.reshape(train_labels.shape)
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    values = outputs * deviation + mean
    np.testing.assert_allclose(task.predict(outputs), values.reshape(labels.shape), rtol=1e-4)
    residual = (values - labels.reshape(values.shape)) / deviation
    np.testing.assert_allclose(
        task.loss(outputs, labels), 0.5 * (residual**2).sum(axis=1), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        task.margin(outputs, labels), -np.linalg.norm(residual, axis=1), rtol=1e-3, atol=1e-4
    )
    absolute = np.abs(residual * deviation).mean(axis=1)
    np.testing.assert_allclose(task.error(outputs, labels), absolute, rtol=1e-3, atol=1e-4)
    scores, truth = task.scores(outputs, labels), labels.reshape(values.shape)
    mse = sklearn.metrics.mean_squared_error(truth, values)
    np.testing.assert_allclose(scores["rmse"], np.sqrt(mse), rtol=1e-5)
    np.testing.assert_allclose(
        scores["mae"], sklearn.metrics.mean_absolute_error(truth, values), rtol=1e-5
    )
    np.testing.assert_allclose(scores["r2"], sklearn.metrics.r2_score(truth, values), rtol=1e-4)
    assert task.better_if_lower and not random_task("classification", 2)[0].better_if_lower


def test_regression_targets_of_one_column_stay_a_column():
    task = TASKS["regression"](np.float32([[1], [3]]), 1)
    np.testing.assert_allclose(task.predict(np.float32([[0], [1]])), [[2], [3]])


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6, 3e-5])
def test_a_constant_target_is_only_shifted(constant):
    labels = np.full(7, constant, np.float32)
    task = TASKS["regression"](labels, 1)
    outputs = np.float32([[0], [2]])
    shifted = np.float32(labels[:2] + np.float32([0, 2]))
    np.testing.assert_allclose(task.predict(outputs), shifted, rtol=1e-6)
    np.testing.assert_allclose(task.loss(outputs, labels[:2]), [0, 2], atol=1e-6)
    truth = labels[:2].astype(float)
    assert task.scores(np.zeros((2, 1)), labels[:2])["r2"] == sklearn.metrics.r2_score(truth, truth)
    off = sklearn.metrics.r2_score(truth, truth + 1)
    assert task.scores(np.ones((2, 1)), labels[:2])["r2"] == off == 0


def test_a_small_deviation_is_a_deviation():
    labels = np.float32([1e-9, 3e-9])
    task = TASKS["regression"](labels, 1)
    np.testing.assert_allclose(
        task.loss(np.zeros((2, 1), np.float32), labels), [0.5, 0.5], rtol=1e-5
    )


@pytest.mark.parametrize(
    "labels, num_outputs, message",
    [
        (np.zeros((4, 3)), 2, "num_outputs: 2; labels have 3 columns"),
        (np.zeros(4), 2, "num_outputs: 2; labels have 1 columns"),
        (np.float32([0, np.nan]), 1, "labels: a target of regression is not a finite number"),
    ],
)
def test_impossible_regressions_are_named(labels, num_outputs, message):
    with pytest.raises(ValueError, match=message):
        TASKS["regression"](labels, num_outputs)
