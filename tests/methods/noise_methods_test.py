"""The methods for noisy labels: losses, weights and their states against plain numpy."""

import functools
import json
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from reweight_jax.data.examples import Examples
from reweight_jax.errors import UserError
from reweight_jax.history import empty_history
from reweight_jax.methods import METHODS, Context, mentornet
from reweight_jax.models import Model
from reweight_jax.sealed import seal
from reweight_jax.tasks import TASKS
from reweight_jax.train.state import TrainState
from reweight_jax.train.step import augmentation, train_step

LOGITS = np.random.default_rng(0).normal(0, 2, (6, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 0, 1])


def examples(labels, true_labels=None):
    labels = np.array(labels, np.int32)
    true_labels = labels if true_labels is None else np.array(true_labels, np.int32)
    return Examples(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, true_labels, labels)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def slopes(function, x, h=1e-5):
    """The gradient of `function`, a scalar of an array, by central differences in float64."""
    x = np.asarray(x, np.float64)
    result = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        result[i] = (function(x + step) - function(x - step)) / (2 * h)
    return result


def gradient(name, logits, labels, method_state=()):
    """Returns the gradient of the summed losses by the logits: one row for each example."""
    loss = METHODS[name].loss
    return jax.grad(lambda z: jnp.sum(loss(z, jnp.asarray(labels), method_state)))(
        jnp.asarray(logits)
    )


@functools.cache  # the mentor's is compiled once for all tests
def jitted_weights(method):
    return jax.jit(METHODS[method].weights)


def weigh(method, state, losses, labels, step=0):
    context = Context(
        losses=jnp.asarray(losses, jnp.float32),
        labels=jnp.asarray(labels, jnp.int32),
        key=jax.random.key(0),
        step=jnp.int32(step),
        method_state=state,
        epsilon_gradient=None,
    )
    weights, state = jitted_weights(method)(context)
    return np.asarray(weights), state


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


# --- S-Model --------------------------------------------------------------------------------------


def transition(state):
    """theta[i, k]: the probability that an example of class i is labelled k."""
    return np.exp(log_softmax(state["transition"]))


def mixture(logits, labels, b):
    """-log sum_i p_i theta[i, label], example by example and class by class."""
    p, theta = np.exp(log_softmax(logits)), np.exp(log_softmax(b))
    return np.array(
        [
            -np.log(sum(p[n, i] * theta[i, label] for i in range(len(theta))))
            for n, label in enumerate(labels)
        ]
    )


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_s_model_starts_from_a_smoothed_identity(num_classes):
    state = METHODS["s_model"].init(jax.random.key(0), ConfigDict(), None, num_classes)
    theta = transition(state)
    np.testing.assert_allclose(theta.sum(axis=1), np.ones(num_classes), rtol=1e-6)
    np.testing.assert_allclose(np.diag(theta), [0.9 + 0.1 / num_classes] * num_classes, rtol=1e-6)
    others = theta[~np.eye(num_classes, dtype=bool)]
    np.testing.assert_allclose(others, np.full(len(others), 0.1 / num_classes), rtol=1e-5)


def test_s_model_loss_and_gradients_against_numpy():
    # Not symmetric: theta's rows (true classes) differ from its columns.
    b = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    state = {"transition": jnp.asarray(b)}
    loss = METHODS["s_model"].loss
    losses = loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), state)
    np.testing.assert_allclose(losses, mixture(LOGITS, LABELS, b), rtol=1e-5)
    by_logits = slopes(lambda z: mixture(z, LABELS, b).sum(), LOGITS)
    np.testing.assert_allclose(
        gradient("s_model", LOGITS, LABELS, state), by_logits, rtol=1e-4, atol=1e-6
    )
    by_transition = jax.grad(lambda s: jnp.sum(loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), s)))(
        state
    )["transition"]
    expected = slopes(lambda b: mixture(LOGITS, LABELS, b).sum(), b)
    np.testing.assert_allclose(by_transition, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(expected).max() > 0.1


def test_s_model_without_noise_is_cross_entropy():
    state = {"transition": 50 * jnp.eye(3)}  # all but exp(-50) of each row is the class's own
    arguments = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    np.testing.assert_allclose(
        METHODS["s_model"].loss(*arguments, state),
        -log_softmax(LOGITS)[np.arange(6), LABELS],
        rtol=1e-5,
    )
    cross_entropy_gradient = np.exp(log_softmax(LOGITS)) - np.eye(3)[LABELS]
    np.testing.assert_allclose(
        gradient("s_model", *arguments, state), cross_entropy_gradient, atol=1e-6
    )


# Outputs that are the inputs, scaled by the only parameter.
SCALED = Model(
    init=lambda key, inputs: ({"scale": jnp.float32(3.0)}, {}),
    apply=lambda params, state, inputs, *, train, key: (params["scale"] * inputs, state),
)


def test_a_step_trains_the_transition_with_the_model():
    inputs = np.random.default_rng(2).uniform(size=(6, 3)).astype(np.float32)
    tx, method = optax.sgd(0.5), METHODS["s_model"]
    params = {"model": {"scale": jnp.float32(3.0)}}
    params["method"] = method.init(jax.random.key(0), ConfigDict(), None, 3)
    b = np.asarray(params["method"]["transition"])
    state = TrainState(
        params=params,
        model_state={},
        opt_state=tx.init(params),
        method_state=(),
        step=jnp.int32(0),
        key=jax.random.key_data(jax.random.key(0)),
        history=empty_history(6, {"weight": (), "margin": ()}),
    )
    rows = jnp.arange(6)
    batch = {"inputs": inputs, "label": jnp.asarray(LABELS), "row": rows, "place": rows}
    step = functools.partial(
        train_step,
        model=SCALED,
        task=TASKS["classification"](LABELS, 3),
        method=method,
        tx=tx,
        augment=augmentation(0, False),
    )
    new_state, metrics = jax.jit(step)(state, batch, None)

    def mean_loss(b, scale=3.0):
        return mixture(scale * inputs, LABELS, b).mean()

    np.testing.assert_allclose(metrics["loss"], mean_loss(b), rtol=1e-5)
    np.testing.assert_allclose(
        new_state.params["method"]["transition"], b - 0.5 * slopes(mean_loss, b), atol=1e-5
    )
    by_scale = slopes(lambda scale: mean_loss(b, scale), 3.0)
    np.testing.assert_allclose(new_state.params["model"]["scale"], 3.0 - 0.5 * by_scale, rtol=1e-5)
    assert new_state.method_state == ()


# By label (rows) and prediction (columns): what is predicted as 0 was labelled 0, 1 and 2 in the
# shares 6 : 3 : 1, what is predicted as 1 in the shares 2 : 8 : 0; nothing is predicted as 2.
CONFUSION = [[6, 2, 0], [3, 8, 0], [1, 0, 0]]
SHARES = [[0.6, 0.3, 0.1], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]]


def from_run(folder, result, num_classes=3):
    if result is not None:
        folder.mkdir(exist_ok=True)
        text = result if isinstance(result, str) else json.dumps(seal(result))
        (folder / "result.json").write_text(text)
    config = ConfigDict({"confusion_from": str(folder)})
    method = METHODS["s_model_conf"]
    host_input = json.loads(json.dumps(method.host_input(config)))  # as it is sent to the others
    if result is not None:
        (folder / "result.json").unlink()  # only the first process reads it
    arguments = (jax.random.key(0), config, None, num_classes)
    return method.init(*arguments, host_input=host_input)


def confusion_result(matrix):
    # Any of the other matrices would give another transition.
    other = [[1, 1, 1]] * 3
    return {
        "confusion": {
            "best": {"hyper_val": matrix, "test": other},
            "last": {"hyper_val": other, "test": other},
        }
    }


def test_s_model_conf_starts_from_the_confusion_of_a_run(tmp_path):
    theta = transition(from_run(tmp_path / "run", confusion_result(CONFUSION)))
    np.testing.assert_allclose(theta, 0.9 * np.array(SHARES) + 0.1 / 3, rtol=1e-5)
    np.testing.assert_allclose(theta.sum(axis=1), np.ones(3), rtol=1e-6)


def test_s_model_conf_trains_like_s_model(tmp_path):
    state = from_run(tmp_path / "run", confusion_result(CONFUSION))
    losses = METHODS["s_model_conf"].loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), state)
    np.testing.assert_allclose(
        losses, mixture(LOGITS, LABELS, np.asarray(state["transition"])), rtol=1e-5
    )
    trainable = {name for name, method in METHODS.items() if method.trainable}
    assert trainable == {"s_model", "s_model_conf"}


@pytest.mark.parametrize(
    "result, message",
    [
        (None, r"no confusion matrix in .*run/result.json \(FileNotFoundError\)"),
        ("", "no confusion matrix in .*result.json"),
        ('{"confusion": ', "no confusion matrix in .*result.json"),
        ("[1, 2]", "no confusion matrix in .*result.json"),
        ({"last": {}}, r"no confusion matrix in .*result.json \(KeyError\)"),
        ({"confusion": None}, "no confusion matrix in .*result.json"),
        (confusion_result("abc"), "no confusion matrix in .*result.json"),
        (confusion_result([[1, 0], [0]]), "no confusion matrix in .*result.json"),
        (confusion_result([[1, 0], [0, 1]]), "has 2 classes, this data set 3"),
        (confusion_result(5), r"\(\), is not a square one of counts"),
        (confusion_result([]), r"\(0,\), is not a square one of counts"),
        (confusion_result([[1, 0, 2]] * 2), r"\(2, 3\), is not a square one of counts"),
        (confusion_result([[1, 0, None]] * 3), r"\(3, 3\), is not a square one of counts"),
        (confusion_result([[1, 0, -1]] * 3), r"\(3, 3\), is not a square one of counts"),
    ],
)
def test_what_is_no_run_with_a_confusion_matrix_is_named(tmp_path, result, message):
    with pytest.raises(UserError, match=f"^config.confusion_from: .*{message}") as error:
        from_run(tmp_path / "run", result)
    assert "\n" not in str(error.value)


def test_s_model_conf_needs_a_run():
    config = ConfigDict({"confusion_from": ""})
    with pytest.raises(UserError, match="^config.confusion_from: empty; .*--workdir") as error:
        METHODS["s_model_conf"].host_input(config)
    assert "\n" not in str(error.value)


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


# --- MentorNet ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("percentile", [-1.0, 100.5, float("nan")])
def test_a_percentile_out_of_range_is_named(percentile):
    config = mentor_config(percentile)
    with pytest.raises(UserError, match=r"^config.mentor_percentile: .*; must be 0..100$"):
        METHODS["mentornet"].init(jax.random.key(0), config, None, 3)


# --- plain ----------------------------------------------------------------------------------------


def test_clean_only_is_plain_training_on_the_clean_set():
    method = METHODS["clean_only"]
    assert method.trains_on_clean and not method.needs_clean
    assert [name for name in METHODS if METHODS[name].trains_on_clean] == ["clean_only"]
    weights, state = weigh("clean_only", (), [5, 1, 0, 2], [0, 1, 2, 2])
    np.testing.assert_array_equal(weights, [0.25] * 4)
    assert state == () and method.loss is None  # the task's loss
