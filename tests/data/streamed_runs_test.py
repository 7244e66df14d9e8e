"""Runs on streamed data are those on resident data, bit for bit, without keeping the inputs."""

import chex
import jax
import numpy as np
import pytest
from as_compiled import as_compiled
from watched import Damaged, Watched, assert_no_workers
from whole_runs import ONE_DEVICE, records, saved, train_undrawn, without_times

from reweight_jax.data import sources
from reweight_jax.data.batches import batch_rows, shuffled
from reweight_jax.data.examples import LazyInputs
from reweight_jax.data.splits import load
from reweight_jax.errors import UserError
from reweight_jax.train.config import check_config

DIGITS = sources.digits(None)


def lazy_digits(monkeypatch, wrap):
    """Makes the training images lazy: they are read from wrap(array). Returns that source."""
    source = wrap(DIGITS["train"].inputs)
    lazy = DIGITS | {"train": DIGITS["train"]._replace(inputs=LazyInputs(source))}
    monkeypatch.setitem(sources.DATASETS, "digits", lambda fields: lazy)
    return source


def assert_same_run(config, tmp_path, monkeypatch, devices=ONE_DEVICE, *, lazy=True, workers=0):
    """Compares the states with their histories, the metrics and the scores, bit for bit."""
    config.data.resident = True
    expected = train_undrawn(config, tmp_path / "resident", devices)
    if lazy:
        lazy_digits(monkeypatch, np.asarray)
    config.data.update({"resident": False, "workers": workers})
    result = train_undrawn(config, tmp_path / "streamed", devices)
    state = saved(tmp_path / "streamed", config.num_steps)
    chex.assert_trees_all_equal(state, saved(tmp_path / "resident", config.num_steps))
    assert records(tmp_path / "streamed") == records(tmp_path / "resident")
    # Of lazy inputs other rows are in the fingerprint, so that the run has another identity.
    assert without_times(result) | {"run": ""} == without_times(expected) | {"run": ""}
    return state


@pytest.mark.parametrize(
    "method, lazy, model",
    [
        ("baseline", True, "mlp"),
        pytest.param("baseline", True, "lenet", marks=as_compiled),
        pytest.param("resample", False, "lenet", marks=[pytest.mark.slow, as_compiled]),
    ],
)
def test_streamed_runs_are_resident_ones(method, lazy, model, digits_config, tmp_path, monkeypatch):
    config = digits_config(method=method, steps_per_dispatch=2, **{"model.name": model})
    state = assert_same_run(config, tmp_path, monkeypatch, lazy=lazy)
    assert state["history"]["visits"].sum() == 72
    seen = (state["history"]["visits"] > 0).sum()  # of 96, or 100 with the clean ones
    assert 30 < seen <= 72


@pytest.mark.slow
def test_reweighting_on_two_devices(digits_config, tmp_path, monkeypatch):
    config = digits_config(**{"model.name": "lenet"})  # crops are of images
    config.data.crop_padding, config.data.flip = 2, True
    assert_same_run(config, tmp_path, monkeypatch, jax.devices()[:2])


@pytest.mark.slow  # two processes start twice; feed_test.py covers their batches
def test_by_worker_processes_with_fine_tuning(digits_config, tmp_path, monkeypatch):
    config = digits_config(method="baseline", finetune_from="last", finetune_steps=2)
    assert_same_run(config, tmp_path, monkeypatch, workers=2)
    assert_no_workers()


@pytest.mark.slow
def test_stopped_and_resumed_and_streamed_or_not(digits_config, tmp_path):
    train_undrawn(digits_config(method="baseline"), tmp_path / "whole", ONE_DEVICE)
    for stop, resident in ((2, False), (4, True), (6, False)):
        config = digits_config(method="baseline", num_steps=stop)
        config.data.resident = resident
        train_undrawn(config, tmp_path / "parts", ONE_DEVICE)
    chex.assert_trees_all_equal(saved(tmp_path / "parts", 6), saved(tmp_path / "whole", 6))
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def all_digits(digits_config):
    """Returns a config of a streamed run with 1,168 training images, of which it reads 72."""
    config = digits_config(method="baseline")
    config.data.update({"resident": False, "clean_in_train": "never"})
    config.data.update({"classes": (), "imbalance_ratio": 0.0, "num_train": 0})
    config.data.update({"balanced_test": False, "num_clean": 10})
    return config


def test_the_training_set_is_never_in_memory(digits_config, tmp_path, monkeypatch):
    config = all_digits(digits_config)
    splits = load(config, 0).splits
    source = lazy_digits(monkeypatch, Watched)
    train_undrawn(config, tmp_path, ONE_DEVICE)
    assert splits.train.size == 1168
    batches = batch_rows(shuffled(splits.train.label, 0), 0, 6, 12).ravel()
    # Each image of a batch and of the clean set once, and hyper_val at each of three evaluations.
    expected = [splits.train.index[batches], splits.clean.index, *[splits.hyper_val.index] * 3]
    counts = np.bincount(source.rows, minlength=1198)
    counts -= np.bincount(np.concatenate(expected), minlength=1198)
    assert counts.min() == 0
    # Besides, the fingerprint reads up to 50 of each split, and the label report the 200 worst.
    assert counts.sum() <= 50 + splits.clean.size + 50 + 200
    # An evaluation reads at most 500 at once. Batches in wait: one for each of 4 threads and the
    # next; two on the device; some in use.
    assert source.most_living <= 500 + 10 * 12


def test_a_damaged_image_ends_a_run(digits_config, tmp_path, monkeypatch):
    config = all_digits(digits_config)
    splits = load(config, 0).splits
    row = batch_rows(shuffled(splits.train.label, 0), 4, 1, 12)[0, 5]
    lazy_digits(monkeypatch, lambda array: Damaged(array, splits.train.index[row]))
    with pytest.raises(UserError, match="the source: a record cannot be read"):
        train_undrawn(config, tmp_path, ONE_DEVICE)
    assert_no_workers()
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_a_negative_number_of_workers_is_named(digits_config):
    config = digits_config()
    config.data.workers = -1
    with pytest.raises(UserError, match="config.data.workers: -1; must be at least 0"):
        check_config(config)
