"""What a run remembers of training and calibration examples, and what observing them changes."""

import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judged_runs import (
    Replay,
    SmallNet,
    Sums,
    affine_model,
    all_tasks,
    examples,
    experiment,
    images,
    last_state,
    rows_of,
    states,
)
from whole_runs import ONE_DEVICE

from reweight_jax import UserError, fit
from reweight_jax.data.examples import Examples
from reweight_jax.history import history_means
from reweight_jax.models import Model, as_model
from reweight_jax.tasks import TASKS

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


# --- Against numpy --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", all_tasks)
def test_what_is_remembered_is_what_numpy_finds(task):
    """Three epochs of plain training, with alignments; calibration before every step."""
    train, clean = examples(task, 24, 0, wrong=0.3), examples(task, 6, 1)
    calibration = examples(task, 6, 2)
    fields = {"method": "baseline", "observe_alignment": True}
    made = experiment((train, clean, calibration), task, **fields)
    state = last_state(made)

    replay, seen, calibrated = Replay(task, train), Sums(24), Sums(6)
    for step in range(9):
        rows = rows_of(train, step)
        x, y = train.inputs[rows], train.label[rows]
        products = replay.products(x, y, clean)
        values = {"weight": np.ones(8), "alignment": products / np.abs(products).mean()}
        seen.add(rows, values | replay.beliefs(x, y))
        # 8 of 24 are a third of an epoch: 2 of 6, which are a chunk.
        rows = rows_of(calibration, step, size=2, stream="calibration")
        calibrated.add(rows, replay.beliefs(calibration.inputs[rows], calibration.label[rows]))
        replay.step(x, y)
    np.testing.assert_allclose(state.params["model"]["w"], replay.w, **CLOSE)
    for history, expected in ((state.history, seen), (state.calibration, calibrated)):
        means = history_means(history)
        np.testing.assert_array_equal(means.pop("visits"), expected.visits)
        chex.assert_trees_all_close(means, expected.means(), **CLOSE)
        assert (expected.visits == 3).all()


def test_the_alignment_that_a_plain_run_observes_is_what_reweighting_takes():
    train, clean = examples("classification", 16, 0, wrong=0.4), examples("classification", 6, 1)
    fields = {"batch_size": 16, "num_steps": 1}
    plain, reweighted = (
        last_state(experiment((train, clean), method=method, observe_alignment=True, **fields))
        for method in ("baseline", "reweight")
    )
    alignment = plain.history.sums["alignment"]
    np.testing.assert_array_equal(alignment, reweighted.history.sums["alignment"])
    assert alignment.min() < 0 < alignment.max()
    positive = np.maximum(alignment, 0)
    weights = reweighted.history.sums["weight"]
    np.testing.assert_allclose(weights, 16 * positive / positive.sum(), **CLOSE)
    np.testing.assert_array_equal(plain.history.sums["weight"], 1)


def test_observing_alignment_changes_no_parameter():
    splits = examples("classification", 24, 0, wrong=0.3), examples("classification", 6, 1)
    observed, not_observed = (
        last_state(experiment(splits, method="baseline", observe_alignment=observe))
        for observe in (True, False)
    )
    assert "alignment" not in not_observed.history.sums
    chex.assert_trees_all_equal(observed.params, not_observed.params)
    np.testing.assert_array_equal(
        observed.history.sums["margin"], not_observed.history.sums["margin"]
    )


def test_observing_alignment_needs_a_clean_set(tmp_path):
    train = examples("classification", 24, 0)
    with pytest.raises(UserError) as error:
        fit(affine_model(3), (train.inputs, train.label), method="baseline",
            observe_alignment=True, workdir=tmp_path / "run")  # fmt: skip
    assert "there is no trusted set" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


# --- Calibration: when, and in which mode ---------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "num_train", "per_dispatch"),
    [(7, 24, 0), (1, 40, 0), (50, 24, 0), (13, 40, 3)],
)
def test_calibration_is_visited_as_often_as_training(size, num_train, per_dispatch):
    splits = examples("classification", num_train, 0), None, examples("classification", size, 2)
    fields = {"method": "baseline", "num_steps": 24, "steps_per_dispatch": per_dispatch}
    chunk, before, most = -(-size // 4), 0, 0
    for step, state, _ in states(experiment(splits, **fields)):
        visits = state.calibration.visits
        due = step * 8 * size / num_train  # by then a training example has step * 8 / N visits
        assert abs(visits.sum() - due) <= chunk / 2  # in the middle of a chunk's part of the epoch
        assert visits.sum() % chunk == 0
        assert visits.max() - visits.min() <= 1
        assert state.history.visits.sum() == step * 8
        most = max(most, visits.sum() - before)
        before = visits.sum()
    # Spread over the epoch: at once are seen as many as a dispatch owes, up to a chunk.
    assert most < max(1, per_dispatch) * 8 * size / num_train + chunk


def trained(train_dropout=0.0, calibration=None, size=24, devices=ONE_DEVICE, **fields):
    """The states of training on images, with BatchNorm, dropout and flips."""
    splits = images(size, 0), images(8, 1), calibration
    fields = {"data.flip": True, "clean_batch_size": 8} | fields
    made = experiment(splits, model=SmallNet(train_dropout), devices=devices, **fields)
    return [state for _, state, _ in states(made)]


def test_calibration_changes_nothing_else():
    """Bit for bit: parameters, batch statistics, the optimiser, what is known of training."""
    with_it, without = (
        trained(0.3, calibration, num_steps=4, **{"data.flip": False})[-1]
        for calibration in (images(10, 2), None)
    )
    assert without.calibration == () and with_it.calibration.visits.sum() > 0
    for name in ("params", "model_state", "opt_state", "method_state", "key", "history"):
        chex.assert_trees_all_equal(getattr(with_it, name), getattr(without, name))
    statistics = with_it.model_state["batch_stats"]["BatchNorm_0"]["mean"]
    assert np.abs(statistics).max() > 0


def test_calibration_is_seen_with_the_batch_statistics_of_its_chunk():
    """As training examples are: in training mode, by the state before the step."""
    calibration = images(12, 2)
    fields = {"data.flip": False, "num_steps": 6}
    margins = TASKS["classification"](None, 3).margin
    model, seen = as_model(SmallNet(0.0)), []
    after = trained(0.0, calibration, size=48, **fields)
    for step, (state, new) in enumerate(itertools.pairwise(after), 1):
        chunk = np.flatnonzero(new.calibration.visits - state.calibration.visits)
        assert len(chunk) in (0, 3)
        if len(chunk):
            got = new.calibration.sums["margin"] - state.calibration.sums["margin"]
            image = jnp.asarray(calibration.inputs[chunk], jnp.float32) / 255
            options = {"train": True, "key": jax.random.key(0)}
            outputs, _ = model.apply(state.params["model"], state.model_state, image, **options)
            expected = margins(outputs, calibration.label[chunk])
            np.testing.assert_allclose(got[chunk], expected, rtol=1e-3, atol=1e-4)
            running, _ = model.apply(state.params["model"], state.model_state, image, train=False)
            assert np.abs(margins(running, calibration.label[chunk]) - expected).max() > 1e-2
            seen.append(step)
    assert after[0].calibration.visits.sum() == 3
    assert seen == [2, 3, 5]  # and 0: six steps of 8 of 48 are an epoch, an eighth 0.75 of them


class Dropped(nn.Module):
    """The sum of the inputs after dropout, as the first of three logits."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.5, deterministic=not train)(x).sum(1)
        unused = self.param("unused", nn.initializers.zeros, (1,))
        return jnp.stack([x, 0 * x, 0 * x], 1) + 0 * unused[None]


def test_calibration_is_seen_with_another_dropout_at_every_visit():
    """64 inputs of one, half of them dropped and the others doubled: 2 * binomial(64, 1/2)."""
    ones = Examples(np.ones((16, 64), np.float32), np.zeros(16, np.int32), None, np.arange(16))
    made = experiment((ones, None, ones), model=Dropped(), method="baseline", num_steps=16)
    before, margins = np.zeros(16), []
    for _, state, _ in states(made):
        new = state.calibration.sums["margin"] - before
        margins += list(new[new > 0])
        before = state.calibration.sums["margin"]
    margins = np.array(margins)
    assert len(margins) == 8 * 16  # eight epochs
    np.testing.assert_allclose(margins % 2, 0, atol=1e-3)
    # Mean 64 and variance 64, within four standard errors.
    assert abs(margins.mean() - 64) < 4 * 8 / np.sqrt(len(margins))
    assert 0.5 * 64 < margins.var() < 1.5 * 64
    assert len({tuple(row) for row in margins.reshape(-1, 8)}) == 16
    assert np.abs(history_means(state.history)["margin"] - 64).max() > 0


def test_calibration_is_seen_augmented():
    """Pictures whose left half is bright, half of the times mirrored."""
    image = np.zeros((16, 4, 4, 1), np.uint8)
    image[:, :, :2] = 255
    pictures = Examples(image, np.zeros(16, np.int32), None, np.arange(16))

    def apply(params, model_state, inputs, *, train, key):
        left = (inputs[:, :, :2].mean((1, 2, 3)) - inputs[:, :, 2:].mean((1, 2, 3)))[:, None]
        return left * jnp.array([[1.0, -1, -1]]) + 0 * params["unused"], model_state

    model = Model(lambda key, inputs: ({"unused": jnp.zeros((1, 1))}, {}), apply)
    fields = {"method": "baseline", "num_steps": 16, "data.flip": True}
    state = last_state(experiment((pictures, None, pictures), model=model, **fields))
    mirrored = 8 * (1 - history_means(state.calibration)["margin"] / 2) / 2  # of 8 visits
    np.testing.assert_allclose(mirrored, np.round(mirrored), atol=1e-4)
    assert abs(mirrored.sum() - 64) < 4 * np.sqrt(128 / 4)
    assert len(set(np.round(mirrored))) > 2  # each example is mirrored by itself


def test_four_devices_observe_what_one_does():
    fields = {"num_steps": 3, "data.flip": False}
    one, four = (
        trained(0.3, images(16, 2), devices=jax.devices()[:n], **fields)[-1] for n in (1, 4)
    )
    assert one.calibration.visits.sum() == 16
    chex.assert_trees_all_close(four, one, rtol=2e-4, atol=2e-5)
