"""Splits: exact sizes, drawn by the seed alone; sources: what they give and what they refuse."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import default
from reweight_jax.data import corrupt, sources
from reweight_jax.data import splits as data
from reweight_jax.data.batches import batch_rows, class_balanced, shuffled
from reweight_jax.errors import UserError

MNIST = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
needs_mnist = pytest.mark.skipif(
    not (MNIST / "mnist").is_dir(), reason=f"MNIST is not prepared in {MNIST}"
)


def digits_data(**fields):
    config = default.get_config().data
    config.update({"name": "digits", "num_hyper_val": 100} | fields)
    return config


def rows(splits):
    return {name: getattr(splits, name).index.tolist() for name in splits._fields}


def test_digits_are_the_scikit_learn_images():
    (image, label), (test_image, test_label) = sources.digits(None)
    assert image.shape == (1198, 28, 28, 1) and test_image.shape == (599, 28, 28, 1)
    assert image.dtype == np.uint8 and image.max() == 255
    from sklearn.datasets import load_digits

    bunch = load_digits()
    np.testing.assert_array_equal(test_label, bunch.target[::3])
    # The centre of each 3x3 block of the magnified image is the pixel it came from.
    np.testing.assert_array_equal(
        test_image[:, 3:27:3, 3:27:3, 0], np.round(bunch.images[::3] * 255 / 16).astype(np.uint8)
    )
    assert image[:, :2].max() == 0 and image[:, :, -2:].max() == 0


def test_imbalanced_counts_are_the_papers():
    # 5,000 at 200:1: 5000 / 201 = 24.9 fours.
    np.testing.assert_array_equal(corrupt.imbalanced_counts(2, 1, 5000, 200), [25, 4975])
    np.testing.assert_array_equal(corrupt.imbalanced_counts(2, 0, 5000, 1), [2500, 2500])
    # Four classes, the third ten times each other: 130 = 10 + 10 + 100 + 10.
    np.testing.assert_array_equal(corrupt.imbalanced_counts(4, 2, 130, 10), [10, 10, 100, 10])
    # 17 / 11 rounds to 2, which would leave the dominant class -1.
    np.testing.assert_array_equal(corrupt.imbalanced_counts(10, 0, 17, 2), [8] + [1] * 9)
    with pytest.raises(UserError, match="config.data.imbalance_ratio: 0.5"):
        corrupt.imbalanced_counts(2, 1, 100, 0.5)


def test_imbalanced_splits_are_exact_and_disjoint():
    config = digits_data(
        classes=(4, 9),
        dominant_class=9,
        imbalance_ratio=9.0,
        num_train=100,
        num_clean=6,
        num_hyper_val=20,
        balanced_test=True,
    )
    splits = data.load(config, 0)
    np.testing.assert_array_equal(np.bincount(splits.clean.label), [3, 3])
    np.testing.assert_array_equal(np.bincount(splits.train.label), [10 - 3, 90 - 3])
    np.testing.assert_array_equal(np.bincount(splits.hyper_val.label), [2, 18])
    assert len(set(np.bincount(splits.test.label))) == 1
    used = np.concatenate([splits.train.index, splits.clean.index, splits.hyper_val.index])
    assert len(set(used.tolist())) == len(used) == 120
    # The rows lead back to the source: label 0 is digit 4 and label 1 is digit 9.
    (image, label), _ = sources.digits(None)
    for part in splits[:3]:
        np.testing.assert_array_equal(np.array([4, 9])[part.label], label[part.index])
        np.testing.assert_array_equal(part.image, image[part.index])
        np.testing.assert_array_equal(part.true_label, part.label)


def test_the_seed_alone_draws_the_splits():
    config = digits_data()
    assert rows(data.load(config, 1)) == rows(data.load(config, 1))
    assert rows(data.load(config, 1))["train"] != rows(data.load(config, 2))["train"]
    # Without imbalance every class keeps its share, and all that is left over is training data.
    splits = data.load(config, 1)
    assert len(splits.train.label) + len(splits.clean.label) + 100 == 1198
    np.testing.assert_array_equal(np.bincount(splits.clean.label), [1] * 10)
    share = np.bincount(splits.hyper_val.label)
    assert share.min() >= 9 and share.max() <= 11


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "svhn"}, "config.data.name: unknown name 'svhn'; valid: cifar10, "),
        ({"classes": (4, 40)}, r"config.data.classes: \(4, 40\)"),
        ({"classes": (4,)}, "config.data.classes"),
        ({"num_clean": 15}, "config.data.num_clean: 15 is not a multiple of the 10 classes"),
        ({"num_clean": 2000}, "config.data.num_clean: needs 200 examples of class"),
        ({"num_train": 5000}, "num_train and num_hyper_val: 5000 examples wanted, of 1198 left"),
        ({"num_train": 1190}, "num_train and num_hyper_val: 100 examples wanted, of 8 left"),
        ({"num_classes": 5}, r"digits: train labels are 0..9; valid: 0..4"),
        ({"imbalance_ratio": 5.0}, "config.data.num_train: 0; imbalance_ratio needs a number"),
        (
            {"num_train": 50, "imbalance_ratio": 5.0, "classes": (4, 9), "dominant_class": 3},
            r"config.data.dominant_class: 3 is not in \(4, 9\)",
        ),
    ],
)
def test_impossible_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message) as error:
        data.load(digits_data(**fields), 0)
    assert "\n" not in str(error.value)


# --- npz ------------------------------------------------------------------------------------------


def arrays(**changes):
    rng = np.random.default_rng(0)
    values = {
        "train_image": rng.integers(0, 256, (40, 6, 5)).astype(np.uint8),
        "train_label": np.arange(40) % 2,
        "test_image": rng.integers(0, 256, (10, 6, 5)).astype(np.uint8),
        "test_label": np.arange(10) % 2,
    } | changes
    return {name: value for name, value in values.items() if value is not None}


def npz_data(path, **fields):
    return digits_data(name="npz", path=str(path), num_clean=4, num_hyper_val=6, **fields)


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    splits = data.load(npz_data(tmp_path / "a.npz"), 0)
    assert len(splits.train.label) == 40 - 4 - 6 and splits.train.image.shape[1:] == (6, 5, 1)
    np.testing.assert_array_equal(splits.test.image[..., 0], arrays()["test_image"])
    floats = arrays(train_image=arrays()["train_image"] / 255, test_image=np.ones((10, 6, 5)))
    np.savez(tmp_path / "b.npz", **floats)
    again = data.load(npz_data(tmp_path / "b.npz"), 0)
    np.testing.assert_array_equal(again.train.image, splits.train.image)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_label": None}, "no array train_label; found: train_image, test_image"),
        ({"test_image": np.zeros((9, 6, 5), np.uint8)}, "test_image has 9 rows but test_label"),
        ({"train_label": np.arange(40) / 2}, "train_label must be integers .* float64"),
        ({"train_label": np.arange(40) % 2 - 1}, r"train labels are -1..0; valid: 0..0"),
        ({"test_label": np.full(10, 7)}, r"test labels are 7..7; valid: 0..1"),
        ({"train_image": np.full((40, 6, 5), np.nan)}, "train_image has NaN"),
        ({"train_image": np.full((40, 6, 5), 3.0)}, r"values 3..3; floats must be in 0..1"),
        ({"train_image": np.zeros((40, 6, 5), np.int16)}, "uint8 or float; it is int16"),
        ({"train_image": np.zeros((40, 6), np.uint8)}, r"must be \[N, H, W\]"),
        ({"train_image": np.zeros((40, 6, 6), np.uint8)}, "train_image and test_image differ"),
        ({"train_image": np.array([None] * 40)}, "train_image holds pickled objects"),
        ({"train_image": np.zeros((0, 6, 5), np.uint8), "train_label": np.arange(0)}, "is empty"),
    ],
)
def test_malformed_npz(tmp_path, changes, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(UserError, match=message) as error:
        data.load(npz_data(path), 0)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_class_that_all_went_into_the_clean_set_still_counts(tmp_path):
    label = (np.arange(200) < 4).astype(np.int64)
    image = np.zeros((200, 4, 4), np.uint8)
    np.savez(
        tmp_path / "a.npz",
        **arrays(train_image=image, train_label=label, test_image=image, test_label=label),
    )
    config = npz_data(tmp_path / "a.npz", imbalance_ratio=24.0, num_train=50, dominant_class=0)
    config.num_hyper_val = 10
    splits = data.load(config, 0)
    np.testing.assert_array_equal(np.bincount(splits.train.label), [46])
    assert data.num_classes_of(config, splits) == 2


def test_not_an_npz(tmp_path):
    with pytest.raises(UserError, match="config.data.path: no readable file"):
        data.load(npz_data(tmp_path / "none.npz"), 0)
    with pytest.raises(UserError, match="config.data.path: empty"):
        data.load(npz_data(""), 0)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="not a readable npz file .no archive of arrays"):
        data.load(npz_data(tmp_path / "text.npz"), 0)
    np.savez(tmp_path / "whole.npz", **arrays())
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="half.npz: not a readable npz file"):
        data.load(npz_data(tmp_path / "half.npz"), 0)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="a single array"):
        data.load(npz_data(tmp_path / "one.npy"), 0)


# --- TFDS -----------------------------------------------------------------------------------------


def test_a_set_that_is_not_prepared_is_reported_at_once(tmp_path, monkeypatch):
    config = digits_data(name="mnist", data_dir=str(tmp_path))
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"mnist is not prepared in .*\[tfds\]"):
        data.load(config, 0)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: name)
    # Port 1 of this machine: nothing listens, as on a machine without a network.
    monkeypatch.setitem(sources.TFDS_SETS, "mnist", "http://127.0.0.1:1/")
    with pytest.raises(UserError, match=r"127.0.0.1:1/ cannot be reached .*/prepare_data.py mnist"):
        data.load(config, 0)
    assert time.monotonic() - start < 10
    assert not list(tmp_path.iterdir())


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(sources, "NETWORK_TIMEOUT_S", 0.2)

    def hang(url, timeout):
        time.sleep(3)
        raise OSError(url, timeout)

    monkeypatch.setattr(sources.urllib.request, "urlopen", hang)
    start = time.monotonic()
    assert not sources._reachable("http://127.0.0.1:1/")
    assert time.monotonic() - start < 2


@needs_mnist
def test_mnist_at_200_to_1():
    from configs import mnist_imbalance

    splits = data.load(mnist_imbalance.get_config().data, 0)
    np.testing.assert_array_equal(np.bincount(splits.train.label), [20, 4970])
    np.testing.assert_array_equal(np.bincount(splits.clean.label), [5, 5])
    np.testing.assert_array_equal(np.bincount(splits.hyper_val.label), [2, 498])
    np.testing.assert_array_equal(np.bincount(splits.test.label), [982, 982])
    assert splits.train.image.shape == (4990, 28, 28, 1) and splits.train.image.dtype == np.uint8


def test_importing_and_digits_need_no_tensorflow_datasets():
    code = (
        "import sys; sys.modules['tensorflow_datasets'] = None; sys.modules['tensorflow'] = None\n"
        "import reweight_jax.train, reweight_jax.data as data\n"
        "from configs import mnist_imbalance\n"
        "print(len(data.load(mnist_imbalance.get_config('digits').data, 0).train.label))"
    )
    root = pathlib.Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)


# --- batches --------------------------------------------------------------------------------------


def test_batches_are_a_function_of_seed_and_step():
    labels = np.arange(103) % 3
    for sampler in (shuffled, class_balanced):
        whole = batch_rows(sampler(labels, 5), 0, 30, 10)
        parts = [batch_rows(sampler(labels, 5), step, 3, 10) for step in range(0, 30, 3)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))
        assert not np.array_equal(whole, batch_rows(sampler(labels, 6), 0, 30, 10))


def test_every_example_once_an_epoch_in_a_new_order():
    stream = batch_rows(shuffled(np.zeros(50), 0), 0, 10, 10).ravel()  # two epochs
    np.testing.assert_array_equal(np.sort(stream[:50]), np.arange(50))
    np.testing.assert_array_equal(np.sort(stream[50:]), np.arange(50))
    assert not np.array_equal(stream[:50], stream[50:])


def test_class_balanced_batches():
    labels = np.array([0] * 90 + [2] * 7 + [3] * 3)  # class 1 is empty
    batch = batch_rows(class_balanced(labels, 0), 0, 1, 12)[0]
    np.testing.assert_array_equal(np.bincount(labels[batch]), [4, 0, 4, 4])
    stream = batch_rows(class_balanced(labels, 0), 0, 30, 9).ravel()  # 90 of each class
    counts = np.bincount(stream, minlength=100)
    np.testing.assert_array_equal(counts[:90], 1)
    np.testing.assert_array_equal(counts[97:], 30)
    assert set(counts[90:97]) == {12, 13}
