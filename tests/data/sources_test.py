"""Built-in sets: what they give, and what is said of one that is missing or damaged."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import default, mnist_imbalance
from reweight_jax.data import sources
from reweight_jax.data.examples import LazyInputs
from reweight_jax.data.sources import TfdsImages
from reweight_jax.data.splits import load
from reweight_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
TFDS = pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
needs_mnist = pytest.mark.skipif(
    not (TFDS / "mnist").is_dir(), reason=f"MNIST is not prepared in {TFDS}"
)


def make_config(**fields):
    config = default.get_config()
    config.data.update({"num_hyper_val": 100} | fields)
    return config


def test_digits_are_the_scikit_learn_images():
    parts = sources.digits(None)
    image, test = parts["train"].inputs, parts["test"]
    assert image.shape == (1198, 28, 28, 1) and test.inputs.shape == (599, 28, 28, 1)
    assert image.dtype == np.uint8 and image.max() == 255
    from sklearn.datasets import load_digits

    bunch = load_digits()
    np.testing.assert_array_equal(test.label, bunch.target[::3])
    # The centre of each 3x3 block of the magnified image is the pixel it came from.
    np.testing.assert_array_equal(
        test.inputs[:, 3:27:3, 3:27:3, 0], np.round(bunch.images[::3] * 255 / 16).astype(np.uint8)
    )
    assert image[:, :2].max() == 0 and image[:, :, -2:].max() == 0
    for array in (image, parts["train"].label, test.inputs, test.label):  # the next caller's too
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


UNUSED = ("tensorflow_datasets", "tensorflow", "grain", "pandas", "array_record")


def test_digits_and_files_need_no_extra(tmp_path):
    np.savez(tmp_path / "a.npz", train_input=np.eye(4), train_label=["a", "b", "a", "b"])
    code = (
        f"import sys; sys.modules |= dict.fromkeys({UNUSED})\n"
        "import reweight_jax\n"
        "from reweight_jax.data.splits import load\n"
        "from configs import mnist_imbalance, own_data\n"
        "print(load(mnist_imbalance.get_config('digits'), 0).splits.train.size)\n"
        f"config = own_data.get_config(); config.data.path = {str(tmp_path / 'a.npz')!r}\n"
        "print(load(config, 0).classes)\n"
        "config.data.update({'name': 'mnist', 'path': ''})\n"
        "try: load(config, 0)\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120, capture_output=True
    )
    digits, classes, missing = done.stdout.decode().splitlines()
    assert digits == "96" and classes == "('a', 'b')"
    assert missing.startswith("config.data.name: mnist needs tensorflow-datasets and array_record")


def test_a_users_entry_is_a_data_set(monkeypatch):
    def read(fields):
        return {"train": sources.Part(np.eye(6), [0, 1, 2] * 2)}

    monkeypatch.setitem(sources.DATASETS, "mine", read)
    data = load(make_config(name="mine", num_hyper_val=0), 0)
    assert data.splits.train.size == 6 and data.splits.clean is None and data.num_outputs == 3


# --- TFDS -----------------------------------------------------------------------------------------


# --- TFDS -----------------------------------------------------------------------------------------


def test_a_set_that_is_not_prepared_is_reported_at_once(tmp_path, monkeypatch):
    config = make_config(name="mnist", data_dir=str(tmp_path))
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"mnist is not prepared in .*\[tfds\]"):
        load(config, 0)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: name)
    # Port 1 of this machine: nothing listens, as on a machine without a network.
    monkeypatch.setitem(sources.TFDS_SETS, "mnist", "http://127.0.0.1:1/")
    with pytest.raises(UserError, match=r"127.0.0.1:1/ cannot be reached .*/prepare_data.py mnist"):
        load(config, 0)
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


@pytest.mark.slow  # the labels of 70,000 records
@needs_mnist
def test_mnist_at_200_to_1():

    splits = load(mnist_imbalance.get_config(), 0).splits
    np.testing.assert_array_equal(np.bincount(splits.train.label), [20, 4970])
    np.testing.assert_array_equal(np.bincount(splits.clean.label), [5, 5])
    np.testing.assert_array_equal(np.bincount(splits.hyper_val.label), [2, 498])
    np.testing.assert_array_equal(np.bincount(splits.test.label), [982, 982])
    assert splits.train.inputs.shape == (4990, 28, 28, 1) and splits.train.inputs.dtype == np.uint8


class Records:
    """Like a TFDS data source, but record 5 cannot be read."""

    def __len__(self):
        return 9

    def __getitems__(self, rows):
        if 5 in rows:
            raise ValueError("crc mismatch\nin chunk 2")
        return [{"image": np.full((2, 3, 1), row, np.uint8)} for row in rows]


def test_tfds_images():
    lazy = LazyInputs(TfdsImages(Records(), (2, 3, 1), "mnist in here")).take(np.array([8, 2, 5]))
    assert lazy.shape == (3, 2, 3, 1)
    np.testing.assert_array_equal(lazy[:2], np.full((2, 2, 3, 1), [[[[8]]], [[[2]]]]))
    joined = LazyInputs(lazy, np.zeros((4, 2, 3, 1), np.uint8))
    assert joined[3:].shape == (4, 2, 3, 1)  # no record of the first part is read
    with pytest.raises(UserError, match=r"^mnist in here: a record cannot be read \(crc mism") as e:
        lazy[2:]
    assert "\n" not in str(e.value)


@needs_mnist
def test_damaged_mnist_is_one_line(tmp_path):
    (source,) = (TFDS / "mnist").glob("3.*")
    folder = tmp_path / "mnist" / source.name
    shutil.copytree(source, folder)
    (path,) = folder.glob("mnist-train.array_record*")
    content = bytearray(path.read_bytes())
    place = len(content) // 50  # it is read up to there
    content[place : place + 5000] = bytes(5000)
    path.write_bytes(content)
    for resident in (True, False):
        config = make_config(name="mnist", data_dir=str(tmp_path), resident=resident)
        with pytest.raises(UserError, match=f"^mnist in {tmp_path}: a record cannot be read") as e:
            load(config, 0).splits.train.in_memory()
        assert "\n" not in str(e.value)
