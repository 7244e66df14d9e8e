"""The data sets by name: scikit-learn's bundled digits, prepared TFDS sets, the user's files.

A reader takes the fields `config.data` and returns a dict of the splits that the set has, each a
`Part`; "train" is required. A user may add readers to DATASETS. The built-in sets have images uint8
[N, H, W, C] and labels int64 [N]; if `config.data.resident` is False, images of TFDS sets are not
decoded until they are indexed. `prepare` downloads a TFDS set.
"""

import contextlib
import functools
import importlib.util
import os
import threading
import urllib.error
import urllib.request

import numpy as np

from reweight_jax.data.examples import LazyInputs, Part
from reweight_jax.data.files import read_npz
from reweight_jax.data.images import read_image_folder
from reweight_jax.data.tables import read_csv
from reweight_jax.errors import UserError, one_line
from reweight_jax.paths import expand

# TFDS set -> the host that its builder downloads from. It is asked before TFDS starts: by default
# TFDS retries a missing network for minutes.
TFDS_SETS = {
    "mnist": "https://storage.googleapis.com/",
    "cifar10": "https://www.cs.toronto.edu/",
    "cifar100": "https://www.cs.toronto.edu/",
}
NETWORK_TIMEOUT_S = 5.0


def digits(config):
    """Returns scikit-learn's 1,797 handwritten digits (8x8, UCI optdigits) as 28x28 images.

    Each image is magnified three times by linear interpolation and padded by two pixels a side.
    Every third image, in the set's own order, is in the test part.
    """
    return dict(_read_digits())


@functools.cache  # a sweep, or a test suite, reads them many times
def _read_digits():
    from sklearn.datasets import load_digits  # here, because it takes a second

    bunch = load_digits()  # images: [N, 8, 8], 0..16
    position = (np.arange(24) + 0.5) / 3 - 0.5  # output pixel centres in input coordinates
    interpolate = np.stack([np.interp(position, range(8), pixel) for pixel in np.eye(8)], axis=1)
    large = np.einsum("ai,nij,bj->nab", interpolate, bunch.images, interpolate) * (255 / 16)
    image = np.pad(np.round(large).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))[..., None]
    label = bunch.target.astype(np.int64)
    test = np.arange(len(label)) % 3 == 0
    parts = {"train": Part(image[~test], label[~test]), "test": Part(image[test], label[test])}
    for part in parts.values():  # every caller has these arrays
        part.inputs.setflags(write=False)
        part.label.setflags(write=False)
    return parts


@functools.lru_cache(maxsize=1)  # a sweep reads the same set many times; the last one is kept
def _read_tfds(name, data_dir, resident):
    """Reads a TFDS set by `tfds.data_source`, which needs no TensorFlow."""
    prepare(name, data_dir)
    builder, origin, parts = _builder(name, data_dir), f"{name} in {data_dir}", {}
    import tensorflow_datasets as tfds  # only here, like in `_builder`

    undecoded = None if resident else {"image": tfds.decode.SkipDecoding()}
    for split in ("train", "test"):
        with _or_prepare_again(f"{origin}: the part {split} cannot be opened"):
            source, decoded = (
                builder.as_data_source(split=split, decoders=decoders)
                for decoders in (undecoded, None)
            )
        records = read_records(source, range(len(source)), origin)
        if resident:
            image = np.stack([record["image"] for record in records])
        else:
            image = LazyInputs(TfdsImages(decoded, builder.info.features["image"].shape, origin))
        parts[split] = Part(image, np.array([record["label"] for record in records], np.int64))
    return parts


@contextlib.contextmanager
def _or_prepare_again(problem):
    """Turns any error into a UserError: TFDS, protobuf and image decoders raise many kinds."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{problem} ({one_line(error)}); prepare the set again") from error


class TfdsImages:
    """The images of a TFDS split, read and decoded when rows are indexed; for `LazyInputs`."""

    dtype = np.dtype(np.uint8)

    def __init__(self, records, shape: tuple[int, int, int], origin: str):
        """Wraps a TFDS data source of images (H, W, C); messages name its `origin`."""
        # A data source is sent to another process without its open files.
        self.shape = (len(records), *shape)
        self._records, self._origin = records, origin

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        records = read_records(self._records, rows.tolist(), self._origin)
        return np.stack([record["image"] for record in records])


def read_records(records, rows, origin: str) -> list[dict]:
    """Reads `rows` of a TFDS data source; UserError that begins with `origin` if one is damaged."""
    with _or_prepare_again(f"{origin}: a record cannot be read"):
        return records.__getitems__(rows)


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> bool:
    """Downloads and prepares the TFDS set `name` in `data_dir`; returns False if it was there.

    Only this step needs a network and TensorFlow (the extra `tfds`). Without either it raises
    UserError within `NETWORK_TIMEOUT_S`, in one line that says what to do.
    """
    data_dir = _data_dir(data_dir)
    builder = _builder(name, data_dir)
    if builder.is_prepared():
        return False
    missing = f"data set {name} is not prepared in {data_dir}"
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{missing}: preparing it needs TensorFlow once: pip install 'reweight-jax[tfds]' "
            "(or set TFDS_DATA_DIR to the folder that has it)"
        )
    if not _reachable(TFDS_SETS[name]):
        raise UserError(
            f"{missing}, and {TFDS_SETS[name]} cannot be reached to download it: "
            f"run scripts/prepare_data.py {name} on a machine with a network, and copy the folder"
        )
    try:
        os.makedirs(data_dir, exist_ok=True)
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises many kinds: disk, checksum, parsing, connection
        raise UserError(f"{missing}: preparing it failed ({one_line(error)})") from error
    return True


def _builder(name, data_dir):
    try:
        import array_record  # noqa: F401  TFDS imports it late, and then fails with a traceback
        import tensorflow_datasets as tfds  # only here: digits and a user's files need neither
    except ImportError as error:
        raise UserError(
            f"config.data.name: {name} needs tensorflow-datasets and array_record ({error}); "
            "pip install tensorflow-datasets array_record"
        ) from None
    try:
        # array_record is the format that `data_source` can read without TensorFlow.
        return tfds.builder(name, data_dir=str(data_dir), file_format="array_record")
    except ValueError as error:  # TFDS keeps the format of a set that is prepared already
        raise UserError(
            f"{name} in {data_dir} is prepared in a format that needs TensorFlow "
            f"({one_line(error)}); give another config.data.data_dir"
        ) from None
    except Exception as error:  # damaged metadata: json, protobuf and etils raise many kinds
        raise UserError(f"{name} in {data_dir}: cannot be read ({one_line(error)})") from error


def _data_dir(data_dir):
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return expand(chosen)


def _reachable(url):
    """Returns whether `url` answers within NETWORK_TIMEOUT_S, name resolution included."""
    answers = []

    def ask():
        try:
            urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT_S).close()
        except urllib.error.HTTPError:
            pass  # it answered
        except OSError:
            return
        answers.append(url)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT_S)
    return bool(answers)


def _tfds(name):
    return lambda config: _read_tfds(name, _data_dir(config.data_dir), config.resident)


DATASETS = {"digits": digits} | {name: _tfds(name) for name in TFDS_SETS}
LABELS_ARE_RIGHT = set(DATASETS)  # of the user's files, only the user can say
DATASETS |= {"npz": read_npz, "csv": read_csv, "image_folder": read_image_folder}
