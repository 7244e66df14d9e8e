"""Streamed data: the images, the batches and the runs of resident data, without keeping them."""

import contextlib
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from typing import NamedTuple

import chex
import jax
import numpy as np
import pytest
from reweight_jax.data.lazy import LazyImages, TfdsImages
from reweight_jax.data.stream import stream_images
from whole_runs import ONE_DEVICE, records, saved, without_times

from configs import default, mnist_imbalance
from reweight_jax.data import sources
from reweight_jax.data import splits as data
from reweight_jax.data.batches import batch_rows, class_balanced, shuffled
from reweight_jax.errors import UserError
from reweight_jax.train.config import check_config
from reweight_jax.train.loop import train_and_evaluate

ROOT = pathlib.Path(__file__).resolve().parents[2]
TFDS = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
needs_mnist = pytest.mark.skipif(
    not (TFDS / "mnist").is_dir(), reason=f"MNIST is not prepared in {TFDS}"
)


def images(size=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, 6, 5, 1)).astype(np.uint8)


class Watched:
    """An array as a source, that notes which rows are read and how many images of them live."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape
        self.rows, self.living, self.most_living = [], 0, 0
        self.lock = threading.Lock()

    def __getitem__(self, rows):
        image = self.array[rows]
        with self.lock:
            self.rows += rows.tolist()
            self.living += len(rows)
            self.most_living = max(self.most_living, self.living)
        weakref.finalize(image, self._gone, len(rows))
        return image

    def _gone(self, size):
        with self.lock:
            self.living -= size


class Damaged(NamedTuple):
    """An array as a source, one row of which cannot be read."""

    array: np.ndarray
    row: int

    @property
    def shape(self):
        return self.array.shape

    def __getitem__(self, rows):
        if self.row in rows:
            raise UserError("the source: a record cannot be read")
        return self.array[rows]


def assert_no_workers():
    assert not multiprocessing.active_children()
    for thread in threading.enumerate():
        if thread.name.startswith("grain-prefetch"):
            thread.join(60)  # it may be in the middle of an image
            assert not thread.is_alive()


# --- Lazy images are numpy's ----------------------------------------------------------------------


def test_take_and_concatenate_are_numpys_and_read_nothing():
    array, source = images(), Watched(images())
    first, second = np.array([7, 3, 30, 3, 12, 0]), np.array([39, 5])
    lazy = LazyImages(source)
    nested = lazy.take(first).take(np.array([4, 0, 1]))
    joined = nested.concatenate(lazy.take(second, axis=0))
    expected = array[[12, 7, 3, 39, 5]]
    assert joined.shape == expected.shape and joined.dtype == expected.dtype
    assert len(joined) == 5 and source.rows == []
    np.testing.assert_array_equal(joined[1:4], expected[1:4])
    assert source.rows == [7, 3, 39]
    np.testing.assert_array_equal(joined[np.array([4, 0])], expected[[4, 0]])
    np.testing.assert_array_equal(joined[:], expected)
    with pytest.raises(TypeError, match="not read as a whole"):
        np.asarray(joined)
    with pytest.raises(ValueError, match="two sources"):
        joined.concatenate(LazyImages(Watched(array)))
    with pytest.raises(ValueError, match="axis: 1"):
        joined.take(second, axis=1)


def test_splits_are_the_resident_ones():
    config = default.get_config().data
    config.update({"name": "digits", "classes": (4, 9), "num_clean": 6, "num_hyper_val": 50})
    config.update({"noise": "uniform_flip", "noise_ratio": 0.4, "balanced_test": True})
    resident = data.load(config, 3)
    config.resident = False
    lazy = data.load(config, 3)
    assert all(part.is_lazy for part in lazy) and not any(part.is_lazy for part in resident)
    chex.assert_trees_all_equal(data.Splits(*(part.in_memory() for part in lazy)), resident)
    joined = data.concatenate(lazy.train, lazy.clean)
    assert joined.is_lazy
    expected = data.concatenate(resident.train, resident.clean)
    chex.assert_trees_all_equal(joined.in_memory(), expected)
    np.testing.assert_array_equal(expected.image[-6:], resident.clean.image)


# --- The batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_dispatches_are_the_samplers_rows_in_its_order(workers):
    array = images()
    labels = np.arange(30) % 3
    lazy = LazyImages(array).take(np.arange(39, 9, -1))
    for sampler, steps in ((shuffled, range(4, 19, 3)), (class_balanced, range(5, 12, 1))):
        rows_of = sampler(labels, 7)
        with contextlib.closing(stream_images(lazy, rows_of, steps, 8, workers)) as batches:
            streamed = list(batches)
        assert len(streamed) == len(steps)
        for step, batch in zip(steps, streamed, strict=True):
            rows = batch_rows(rows_of, step, steps.step, 8)
            np.testing.assert_array_equal(batch, array[39 - rows])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_the_users_error_and_leaves_no_worker(workers):
    rows_of = shuffled(np.zeros(40), 0)
    damaged = batch_rows(rows_of, 2, 1, 8)[0, 3]
    lazy = LazyImages(Damaged(images(), damaged))
    batches = stream_images(lazy, rows_of, range(5), 8, workers)
    read = [next(batches), next(batches)]
    np.testing.assert_array_equal(read[1][0], images()[batch_rows(rows_of, 1, 1, 8)[0]])
    with pytest.raises(UserError, match="cannot be read"):
        next(batches)
    assert_no_workers()


@pytest.mark.parametrize("workers", [0, 1])
def test_leaving_early_leaves_no_worker(workers):
    batches = stream_images(
        LazyImages(images()), shuffled(np.zeros(40), 0), range(10**9), 8, workers
    )
    next(batches)
    batches.close()
    assert_no_workers()


def test_a_killed_worker_is_named():
    rows_of = shuffled(np.zeros(40), 0)
    batches = stream_images(LazyImages(images()), rows_of, range(10**9), 8, 1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(UserError, match=r"^config.data.workers: a process .* exit code -9") as e:
        for _ in batches:
            pass
    assert "\n" not in str(e.value)


def test_a_killed_run_leaves_no_worker():
    code = (
        "import os, signal, numpy as np\n"
        "from reweight_jax.data.batches import shuffled\n"
        "from reweight_jax.data.lazy import LazyImages\n"
        "from reweight_jax.data.stream import stream_images\n"
        "images = LazyImages(np.zeros((40, 6, 5, 1), np.uint8))\n"
        "next(stream_images(images, shuffled(np.zeros(40), 0), range(10**9), 8, 2))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # It comes back when the last process that holds the pipe, workers included, has ended.
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL


# --- Whole runs -----------------------------------------------------------------------------------


def assert_same_run(config, tmp_path, devices=ONE_DEVICE, **streaming):
    """Bit for bit: the parameters, each example's last weight, the metrics, the scores."""
    results = {}
    for resident in (True, False):
        config.data.resident = resident
        if not resident:
            config.data.update(streaming)
        results[resident] = train_and_evaluate(config, tmp_path / str(resident), devices)
    steps = config.num_steps
    state = saved(tmp_path / "False", steps)
    chex.assert_trees_all_equal(state, saved(tmp_path / "True", steps))
    assert records(tmp_path / "False") == records(tmp_path / "True")
    assert without_times(results[False]) == without_times(results[True])
    return state


@pytest.mark.parametrize("method", ["baseline", "resample"])
def test_streamed_runs_are_resident_ones(method, digits_config, tmp_path):
    state = assert_same_run(digits_config(method=method, steps_per_dispatch=2), tmp_path)
    seen = (state["history"]["visits"] > 0).sum()  # of 96, or 100 with the clean ones
    assert 30 < seen <= 72


def test_reweighting_on_two_devices(digits_config, tmp_path):
    config = digits_config()
    config.data.crop_padding, config.data.flip = 2, True
    assert_same_run(config, tmp_path, jax.devices()[:2])


def test_by_worker_processes_with_fine_tuning(digits_config, tmp_path):
    config = digits_config(method="baseline", finetune_from="last", finetune_steps=2)
    assert_same_run(config, tmp_path, workers=2)
    assert_no_workers()


def test_stopped_and_resumed_and_streamed_or_not(digits_config, tmp_path):
    train_and_evaluate(digits_config(method="baseline"), tmp_path / "whole", ONE_DEVICE)
    for stop, resident in ((2, False), (4, True), (6, False)):
        config = digits_config(method="baseline", num_steps=stop)
        config.data.resident = resident
        train_and_evaluate(config, tmp_path / "parts", ONE_DEVICE)
    chex.assert_trees_all_equal(saved(tmp_path / "parts", 6), saved(tmp_path / "whole", 6))
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def all_digits(digits_config):
    """A streamed run of 1,168 training images, of which it reads but 72."""
    config = digits_config(method="baseline")
    config.data.update({"resident": False, "clean_in_train": "never"})
    config.data.update({"classes": (), "imbalance_ratio": 0.0, "num_train": 0})
    config.data.update({"balanced_test": False, "num_clean": 10})
    return config


def test_the_training_set_is_never_in_memory(digits_config, tmp_path, monkeypatch):
    (image, label), test = sources.digits(None)
    source = Watched(image)
    monkeypatch.setitem(sources.DATASETS, "digits", lambda config: ((source, label), test))
    config = all_digits(digits_config)
    train_and_evaluate(config, tmp_path, ONE_DEVICE)
    config.data.resident = True
    monkeypatch.setitem(sources.DATASETS, "digits", lambda config: ((image, label), test))
    splits = data.load(config.data, 0)
    assert len(splits.train.label) == 1168
    batches = batch_rows(shuffled(splits.train.label, 0), 0, 6, 12).ravel()
    # Each image of a batch and of the clean set once, and hyper_val at each of three evaluations.
    expected = [splits.train.index[batches], splits.clean.index, *[splits.hyper_val.index] * 3]
    assert sorted(source.rows) == sorted(np.concatenate(expected).tolist())
    # Batches in wait: one for each of 4 threads and the next; two on the device; some in use.
    assert source.most_living <= 10 * 12 + 20


def test_a_damaged_image_ends_a_run(digits_config, tmp_path, monkeypatch):
    (image, label), test = sources.digits(None)
    config = all_digits(digits_config)
    splits = data.load(config.data, 0)
    row = batch_rows(shuffled(splits.train.label, 0), 4, 1, 12)[0, 5]
    source = Damaged(image, splits.train.index[row])
    monkeypatch.setitem(sources.DATASETS, "digits", lambda config: ((source, label), test))
    with pytest.raises(UserError, match="the source: a record cannot be read"):
        train_and_evaluate(config, tmp_path, ONE_DEVICE)
    assert_no_workers()
    assert (tmp_path / "checkpoints" / "2").is_dir()


def test_a_negative_number_of_workers_is_named(digits_config):
    config = digits_config()
    config.data.workers = -1
    with pytest.raises(UserError, match="config.data.workers: -1; must be at least 0"):
        check_config(config)


# --- npz ------------------------------------------------------------------------------------------


def npz_config(path):
    config = default.get_config().data
    config.update({"name": "npz", "path": str(path), "num_clean": 4, "num_hyper_val": 6})
    config.resident = False
    return config


def npz_arrays(shape=(6, 5), order="C"):
    rng = np.random.default_rng(0)

    def make(size):
        image = np.asarray(rng.integers(0, 256, (size, *shape)), np.uint8, order=order)
        return image, np.arange(size) % 2

    names = ("train_image", "train_label", "test_image", "test_label")
    return dict(zip(names, make(40) + make(10), strict=True))


@pytest.mark.parametrize("shape, order", [((6, 5), "C"), ((6, 5, 3), "C"), ((6, 5, 3), "F")])
def test_npz_is_read_from_the_disk(tmp_path, shape, order):
    path = tmp_path / "a.npz"
    arrays = npz_arrays(shape, order)
    np.savez(path, **arrays)
    splits = data.load(npz_config(path), 0)
    test = arrays["test_image"].reshape(10, 6, 5, -1)
    np.testing.assert_array_equal(splits.test.image[np.array([8, 2])], test[[8, 2]])
    expected = arrays["train_image"].reshape(40, 6, 5, -1)[splits.train.index]
    np.testing.assert_array_equal(splits.train.image[3:9], expected[3:9])
    # What has not been read yet is what the file then holds.
    arrays["train_image"][:] = 255 - arrays["train_image"]
    with path.open("r+b") as file:
        np.savez(file, **arrays)
    np.testing.assert_array_equal(splits.train.image[9:20], 255 - expected[9:20])


def test_npz_that_cannot_be_streamed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **npz_arrays())
    with pytest.raises(UserError, match=r"a.npz: train_image is compressed, .* with np.savez, or"):
        data.load(npz_config(path), 0)
    np.savez(path, **npz_arrays() | {"test_image": np.zeros((10, 6, 5))})
    with pytest.raises(UserError, match="a.npz: test_image is float64; to be streamed it must be"):
        data.load(npz_config(path), 0)
    np.savez(path, **npz_arrays() | {"train_image": np.array([None] * 40)})
    with pytest.raises(UserError, match="a.npz: train_image holds pickled objects"):
        data.load(npz_config(path), 0)


# --- TFDS -----------------------------------------------------------------------------------------


class Records:
    """As a TFDS data source, that cannot read record 5."""

    def __len__(self):
        return 9

    def __getitems__(self, rows):
        if 5 in rows:
            raise ValueError("crc mismatch\nin chunk 2")
        return [{"image": np.full((2, 3, 1), row, np.uint8)} for row in rows]


def test_tfds_images():
    lazy = LazyImages(TfdsImages(Records(), (2, 3, 1), "mnist in here")).take(np.array([8, 2, 5]))
    assert lazy.shape == (3, 2, 3, 1)
    np.testing.assert_array_equal(lazy[:2], np.full((2, 2, 3, 1), [[[[8]]], [[[2]]]]))
    with pytest.raises(UserError, match=r"^mnist in here: a record cannot be read \(crc mism") as e:
        lazy[2:]
    assert "\n" not in str(e.value)


def mnist_config():
    config = mnist_imbalance.get_config("mnist")
    config.num_steps, config.batch_size = 4, 12
    config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 4
    config.data.update({"num_train": 500, "imbalance_ratio": 20.0, "num_hyper_val": 50})
    return config


@needs_mnist
def test_streamed_mnist_is_resident_mnist(tmp_path):
    assert_same_run(mnist_config(), tmp_path, workers=2)


@needs_mnist
def test_damaged_mnist_is_one_line(tmp_path):
    (source,) = (TFDS / "mnist").glob("3.*")
    folder = tmp_path / "mnist" / source.name
    shutil.copytree(source, folder)
    (path,) = folder.glob("mnist-train.array_record*")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    path.write_bytes(content)
    for resident in (True, False):
        config = mnist_config()
        config.data.update({"data_dir": str(tmp_path), "resident": resident})
        with pytest.raises(UserError, match=f"^mnist in {tmp_path}: a record cannot be read") as e:
            data.load(config.data, 0)
        assert "\n" not in str(e.value)
