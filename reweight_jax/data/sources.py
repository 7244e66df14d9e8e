"""Where images come from: scikit-learn's bundled digits, prepared TFDS sets, the user's npz files.

Every source returns ((train_image, train_label), (test_image, test_label)): images uint8
[N, H, W, C], labels int64 [N]. Where `config.resident` is not set, images are what `LazyImages`
reads from; labels are always read. `prepare` makes a TFDS set ready where there is a network.
"""

import functools
import importlib.util
import os
import pathlib
import threading
import urllib.error
import urllib.request
import zipfile
import zlib

import numpy as np

from reweight_jax.data.lazy import MappedImages, TfdsImages, map_array, read_records
from reweight_jax.errors import UserError

# TFDS set -> the host that its builder downloads from, asked before TFDS starts: left to itself,
# TFDS retries a missing network for minutes.
TFDS_SETS = {
    "mnist": "https://storage.googleapis.com/",
    "cifar10": "https://www.cs.toronto.edu/",
    "cifar100": "https://www.cs.toronto.edu/",
}
NETWORK_TIMEOUT_S = 5.0
LABELS_AT_ONCE = 1_000  # records read together for their labels, images and all


def digits(config):
    """scikit-learn's 1,797 handwritten digits (8x8, UCI optdigits), brought to 28x28.

    Each image is magnified three times by linear interpolation and padded by two pixels a side, so
    that it fits where MNIST fits. Every third image, in the set's own order, is the test part.
    """
    del config
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = bunch.images  # [N, 8, 8], 0..16
    # Output pixel centres in input coordinates, clamped at the border.
    position = np.clip((np.arange(24) + 0.5) / 3 - 0.5, 0, 7)
    below = np.minimum(position.astype(int), 6)
    fraction = position - below
    interpolate = np.zeros((24, 8))
    interpolate[np.arange(24), below] = 1 - fraction
    interpolate[np.arange(24), below + 1] += fraction
    large = np.einsum("ai,nij,bj->nab", interpolate, small, interpolate) * (255 / 16)
    image = np.pad(np.round(large).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))[..., None]
    label = bunch.target.astype(np.int64)
    test = np.arange(len(label)) % 3 == 0
    return (image[~test], label[~test]), (image[test], label[test])


def npz(config):
    """Arrays train_image, train_label, test_image, test_label from the file `config.path`.

    Images are [N, H, W] or [N, H, W, C], uint8, or floats in 0..1 (rounded to 1/255); labels are
    integers 0..K-1. To be streamed, images must be uint8 and the file uncompressed (np.savez).
    """
    if not config.path:
        raise UserError("config.data.path: empty; give the npz file to read")
    path = pathlib.Path(config.path).expanduser()
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"config.data.path: no readable file {path} ({error.strerror})") from None
    with file:
        try:
            archive = np.load(file, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            why = "no archive of arrays" if "pickle" in str(error) else _first_line(error)
            raise UserError(f"{path}: not a readable npz file ({why})") from None
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{path}: a single array; save the four arrays with np.savez")
        parts = [_npz_part(archive, path, split, config.resident) for split in ("train", "test")]
    if parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        raise UserError(
            f"{path}: train_image and test_image differ in shape: "
            f"{parts[0][0].shape[1:]} and {parts[1][0].shape[1:]}"
        )
    return tuple(parts)


def _npz_part(archive, path, split, resident):
    """Reads and checks one split of an npz file, whose images stay there if not `resident`."""
    arrays = {}
    for key in (f"{split}_image", f"{split}_label"):
        if key not in archive.files:
            raise UserError(f"{path}: no array {key}; found: {', '.join(archive.files) or 'none'}")
        try:
            is_mapped = not resident and key == f"{split}_image"
            arrays[key] = map_array(archive, path, key) if is_mapped else archive[key]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            if "allow_pickle" in str(error):
                raise UserError(f"{path}: {key} holds pickled objects; save arrays") from None
            raise UserError(f"{path}: {key} is damaged ({_first_line(error)})") from None
        if not isinstance(arrays[key], np.ndarray):
            raise UserError(f"{path}: {key} is not a numpy array; save the arrays with np.savez")
    image, label = arrays.values()
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise UserError(
            f"{path}: {split}_label must be integers [N]; it is {label.dtype} {label.shape}"
        )
    if image.ndim not in (3, 4):
        raise UserError(f"{path}: {split}_image must be [N, H, W] or [N, H, W, C]: {image.shape}")
    if len(image) != len(label):
        raise UserError(
            f"{path}: {split}_image has {len(image)} rows but {split}_label has {len(label)}"
        )
    if not image.size:
        raise UserError(f"{path}: {split}_image is empty, {image.shape}")
    if not resident:
        if image.dtype != np.uint8:
            raise UserError(
                f"{path}: {split}_image is {image.dtype}; to be streamed it must be uint8 "
                "(or set config.data.resident=True)"
            )
        return MappedImages(image), label.astype(np.int64)
    if np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all():
            raise UserError(f"{path}: {split}_image has NaN or infinite pixels")
        if image.min() < 0 or image.max() > 1:
            raise UserError(
                f"{path}: {split}_image has values {image.min():g}..{image.max():g}; "
                "floats must be in 0..1, or give uint8"
            )
        image = np.round(image * 255).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise UserError(f"{path}: {split}_image must be uint8 or float; it is {image.dtype}")
    return (image if image.ndim == 4 else image[..., None]), label.astype(np.int64)


def _tfds(name):
    def read(config):
        read_set = _read_tfds if config.resident else _open_tfds
        return read_set(name, _data_dir(config.data_dir))

    read.__doc__ = f"TFDS {name}, read by `tfds.data_source` (no TensorFlow)."
    return read


@functools.lru_cache(maxsize=1)  # a sweep reads the same set many times; one is kept
def _read_tfds(name, data_dir):
    prepare(name, data_dir)
    builder = _builder(name, data_dir)
    parts = []
    for split in ("train", "test"):
        source = builder.as_data_source(split=split)
        rows = read_records(source, range(len(source)), f"{name} in {data_dir}")
        image = np.stack([row["image"] for row in rows])
        parts.append((image, np.array([row["label"] for row in rows], np.int64)))
    return tuple(parts)


@functools.lru_cache(maxsize=1)
def _open_tfds(name, data_dir):
    """As `_read_tfds`, but images are not decoded, and not kept."""
    prepare(name, data_dir)
    builder = _builder(name, data_dir)
    import tensorflow_datasets as tfds  # only here, like in `_builder`

    undecoded = {"image": tfds.decode.SkipDecoding()}
    where = f"{name} in {data_dir}"
    parts = []
    for split in ("train", "test"):
        source = builder.as_data_source(split=split)
        labels = builder.as_data_source(split=split, decoders=undecoded)
        rows = (
            row
            for start in range(0, len(source), LABELS_AT_ONCE)
            for row in read_records(
                labels, range(start, min(start + LABELS_AT_ONCE, len(source))), where
            )
        )
        image = TfdsImages(source, builder.info.features["image"].shape, where)
        parts.append((image, np.array([row["label"] for row in rows], np.int64)))
    return tuple(parts)


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> bool:
    """Makes the TFDS set `name` ready under `data_dir`; returns False if it already was.

    Downloads, so needs a network and TensorFlow (the extra `tfds`), for this step alone. Without
    either it raises UserError within `NETWORK_TIMEOUT_S`, in one line that says what to do.
    """
    data_dir = _data_dir(data_dir)
    builder = _builder(name, data_dir)
    if builder.is_prepared():
        return False
    missing = f"data set {name} is not prepared in {data_dir}"
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{missing}: preparing it needs TensorFlow once: pip install 'reweight-jax[tfds]' "
            "(or set TFDS_DATA_DIR to where it is prepared)"
        )
    if not _reachable(TFDS_SETS[name]):
        raise UserError(
            f"{missing}, and {TFDS_SETS[name]} cannot be reached to download it: "
            f"run scripts/prepare_data.py {name} where there is a network, and copy the folder"
        )
    try:
        os.makedirs(data_dir, exist_ok=True)
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises many kinds: disk, checksum, parsing, connection
        raise UserError(f"{missing}: preparing it failed ({_first_line(error)})") from error
    return True


def _builder(name, data_dir):
    try:
        import tensorflow_datasets as tfds  # only here: npz and digits run without it
    except ImportError as error:
        raise UserError(f"config.data.name: {name} needs tensorflow-datasets ({error})") from None
    try:
        # array_record is the format that `data_source` can read without TensorFlow.
        return tfds.builder(name, data_dir=str(data_dir), file_format="array_record")
    except ValueError as error:  # TFDS keeps the format of a set that is there
        raise UserError(
            f"{name} in {data_dir} is prepared in a format that needs TensorFlow "
            f"({_first_line(error)}); give another config.data.data_dir"
        ) from None


def _data_dir(data_dir):
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(chosen).expanduser()


def _reachable(url):
    """Whether `url` answers within NETWORK_TIMEOUT_S; name resolution counts in the time."""
    answers = []

    def ask():
        try:
            urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT_S).close()
            answers.append(True)
        except urllib.error.HTTPError:  # it answered
            answers.append(True)
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT_S)
    return bool(answers and answers[0])


def _first_line(error):
    return (str(error) or type(error).__name__).splitlines()[0]


DATASETS = {"digits": digits, "npz": npz} | {name: _tfds(name) for name in TFDS_SETS}
