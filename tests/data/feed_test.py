"""Streaming: batches of lazy inputs, read in the background, are those of arrays."""

import contextlib
import multiprocessing
import sys
import time

import chex
import numpy as np
import pytest
from commands import assert_killed_alone
from watched import Damaged, Watched, assert_no_workers, images

from configs import default
from reweight_jax.data import sources
from reweight_jax.data.batches import batch_rows, class_balanced, shuffled
from reweight_jax.data.examples import Examples, LazyInputs, Part, concatenate, is_lazy
from reweight_jax.data.feed import stream_inputs
from reweight_jax.data.splits import load
from reweight_jax.errors import UserError

# --- Lazy inputs are numpy's ----------------------------------------------------------------------


def test_take_and_concatenate_are_numpys_and_read_nothing():
    array, source = images(), Watched(images())
    other = Watched(images(9, seed=1))
    first, second = np.array([7, 3, 30, 3, 12, 0]), np.array([39, 5])
    lazy = LazyInputs(source)
    nested = lazy.take(first).take(np.array([4, 0, 1]))
    joined = LazyInputs(LazyInputs(nested, lazy.take(second, axis=0)), other)
    expected = np.concatenate([array[[12, 7, 3, 39, 5]], images(9, seed=1)])
    assert joined.shape == expected.shape and joined.dtype == expected.dtype
    assert joined.ndim == 4 and len(joined) == 14 and source.rows == other.rows == []
    np.testing.assert_array_equal(joined[1:4], expected[1:4])
    assert source.rows == [7, 3, 39] and other.rows == []
    rows = np.array([13, 4, 5, 0, 13])
    np.testing.assert_array_equal(joined[rows], expected[rows])
    np.testing.assert_array_equal(joined.take(rows)[:], expected[rows])
    np.testing.assert_array_equal(joined[:], expected)
    with pytest.raises(TypeError, match="not read as a whole"):
        np.asarray(joined)
    with pytest.raises(ValueError, match="axis: 1"):
        joined.take(second, axis=1)


def test_the_extremes_of_lazy_inputs_are_numpys():
    array = np.random.default_rng(0).integers(-99, 99, (2_500, 3))
    lazy = LazyInputs(array).take(np.arange(1, 2_400))
    assert (lazy.min(), lazy.max()) == (array[1:2400].min(), array[1:2400].max())


def examples(inputs, size=4, first=0):
    label = np.arange(size, dtype=np.int32)
    return Examples(inputs, label, None, np.arange(first, first + size))


def test_examples_of_dicts_and_of_both_kinds():
    x, y = np.arange(8).reshape(4, 2), np.arange(4.0)
    mixed = examples({"x": LazyInputs(x), "y": y})
    assert is_lazy(mixed.inputs) and mixed.size == 4
    taken = mixed.take(np.array([3, 1]))
    assert is_lazy(taken.inputs) and taken.true_label is None and taken.index.tolist() == [3, 1]
    chex.assert_trees_all_equal(taken.in_memory().inputs, {"x": x[[3, 1]], "y": y[[3, 1]]})
    assert not is_lazy(taken.in_memory().inputs)
    joined = concatenate(examples(x), examples(LazyInputs(x + 10), first=4))
    assert is_lazy(joined.inputs) and joined.index.tolist() == list(range(8))
    np.testing.assert_array_equal(joined.inputs[:], np.concatenate([x, x + 10]))
    plain = concatenate(examples(x)._replace(true_label=np.zeros(4, int)), examples(x))
    assert plain.true_label is None and isinstance(plain.inputs, np.ndarray)


def test_splits_of_a_lazy_source_are_the_resident_ones(monkeypatch):
    config = default.get_config()
    config.data.update({"name": "digits", "classes": (4, 9), "num_clean": 6, "num_hyper_val": 50})
    config.data.update({"noise": "uniform_flip", "noise_ratio": 0.4, "balanced_test": True})
    config.data.num_calibration = 2
    resident = load(config, 3).splits
    parts = sources.digits(None)
    lazy_parts = {name: Part(LazyInputs(p.inputs), p.label) for name, p in parts.items()}
    monkeypatch.setitem(sources.DATASETS, "digits", lambda fields: lazy_parts)
    lazy = load(config, 3).splits
    assert all(is_lazy(part.inputs) for part in lazy)
    assert not any(is_lazy(part.inputs) for part in resident)
    chex.assert_trees_all_equal(tuple(part.in_memory() for part in lazy), tuple(resident))
    joined = concatenate(lazy.train, lazy.clean)
    assert is_lazy(joined.inputs)
    expected = concatenate(resident.train, resident.clean)
    chex.assert_trees_all_equal(joined.in_memory(), expected)
    np.testing.assert_array_equal(expected.inputs[-4:], resident.clean.inputs)


# --- The batches ----------------------------------------------------------------------------------


def as_dict(array):
    return {"image": array, "row": LazyInputs(np.arange(len(array))[:, None])}


@pytest.mark.parametrize(
    "kind, workers",
    [
        (np.asarray, 0),
        (LazyInputs, 0),
        (lambda array: as_dict(LazyInputs(array)), 0),
        (lambda array: as_dict(LazyInputs(array)), 2),
    ],
)
def test_batches_are_the_samplers_rows_in_its_order(kind, workers):
    array, labels, taken = images(), np.arange(30) % 3, np.arange(39, 9, -1)
    inputs = examples(kind(array), 40).take(taken).inputs
    part = slice(2, 7)
    samplers = [(shuffled, 4, 19), (class_balanced, 5, 12)]
    for sampler, start, stop in samplers[1:] if workers else samplers:  # workers start slowly
        rows_of = sampler(labels, 7)
        stream = stream_inputs(inputs, rows_of, start, stop, 8, workers, part, ahead=3)
        with contextlib.closing(stream) as batches:
            streamed = list(batches)
        assert len(streamed) == stop - start
        for step, batch in zip(range(start, stop), streamed, strict=True):
            rows = taken[batch_rows(rows_of, step, 1, 8)[0, part]]
            if isinstance(batch, dict):
                np.testing.assert_array_equal(batch["row"][:, 0], rows)
                batch = batch["image"]
            np.testing.assert_array_equal(batch, array[rows])
            assert batch.shape == (5, 6, 5, 1)
    assert_no_workers()


def test_a_worker_gives_its_memory_back():
    batches = list(stream_inputs(LazyInputs(images()), shuffled(np.zeros(40), 0), 0, 3, 8, 1))
    assert all(type(batch) is np.ndarray and batch.flags.owndata for batch in batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_row_is_the_users_error_and_leaves_no_worker(workers):
    rows_of = shuffled(np.zeros(40), 0)
    damaged = batch_rows(rows_of, 2, 1, 8)[0, 3]
    lazy = LazyInputs(Damaged(images(), damaged))
    batches = stream_inputs(lazy, rows_of, 0, 5, 8, workers)
    read = [next(batches), next(batches)]
    np.testing.assert_array_equal(read[1], images()[batch_rows(rows_of, 1, 1, 8)[0]])
    with pytest.raises(UserError, match="cannot be read"):
        next(batches)
    assert_no_workers()


@pytest.mark.parametrize("workers", [0, 1])
def test_leaving_early_leaves_no_worker(workers):
    lazy = LazyInputs(images())
    batches = stream_inputs(lazy, shuffled(np.zeros(40), 0), 0, 10**9, 8, workers)
    next(batches)
    batches.close()
    assert_no_workers()


class Slow:
    """Images, each batch of which takes half a second."""

    shape, dtype = images().shape, images().dtype

    def __getitem__(self, rows):
        time.sleep(0.5)
        return images()[rows]


def test_a_killed_worker_is_named():
    # It is killed while it reads. An idle worker often holds a lock, and grain would wait for it.
    rows_of = shuffled(np.zeros(40), 0)
    batches = stream_inputs(LazyInputs(Slow()), rows_of, 0, 10**9, 8, 1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    time.sleep(0.1)
    worker.kill()
    with pytest.raises(UserError, match=r"^config.data.workers: a process .* exit code -9") as e:
        for _ in batches:
            pass
    assert "\n" not in str(e.value)


def test_a_killed_run_leaves_no_worker():
    code = (
        "import os, signal, numpy as np\n"
        "from reweight_jax.data.batches import shuffled\n"
        "from reweight_jax.data.examples import LazyInputs\n"
        "from reweight_jax.data.feed import stream_inputs\n"
        "images = LazyInputs(np.zeros((40, 6, 5, 1), np.uint8))\n"
        "next(stream_inputs(images, shuffled(np.zeros(40), 0), 0, 10**9, 8, 2))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert_killed_alone(code)


def test_grain_is_needed_only_for_lazy_inputs(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    rows_of = shuffled(np.zeros(40), 0)
    (batch,) = stream_inputs(images(), rows_of, 0, 1, 8)
    assert batch.shape == (8, 6, 5, 1)
    with pytest.raises(UserError, match=r"config.data.resident: False needs grain .*\[stream\]'"):
        next(stream_inputs(LazyInputs(images()), rows_of, 0, 1, 8))
