"""S-Model: the transition from right labels to given ones, against plain numpy."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from noise_by_hand import (
    LABELS,
    LOGITS,
    gradient,
    log_softmax,
    slopes,
)

from reweight_jax.errors import UserError
from reweight_jax.history import empty_history
from reweight_jax.methods import METHODS
from reweight_jax.models import Model
from reweight_jax.sealed import seal
from reweight_jax.tasks import TASKS
from reweight_jax.train.augmentation import augmentation
from reweight_jax.train.state import TrainState
from reweight_jax.train.step import train_step


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
        (None, r"no confusion matrix in .*run/result.json \(it is missing\)"),
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
