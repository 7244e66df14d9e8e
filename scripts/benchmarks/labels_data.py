"""The data of scripts/benchmarks/labels.py: sets, trusted examples, and wrong labels."""

import functools
import pathlib
from typing import NamedTuple

import numpy as np

from reweight_jax.configs import default
from reweight_jax.data import corrupt
from reweight_jax.data.sources import DATASETS
from reweight_jax.data.splits import BACKGROUND_CLASSES
from reweight_jax.errors import UserError

INJECTED = ("none", "uniform", "background", "asymmetric", "uniform10")
# Names of CIFAR-10N (Wei et al., "Learning with Noisy Labels Revisited", ICLR 2022).
HUMAN = {"human_worst": "worse_label", "human_aggregate": "aggre_label"}
NOISES = (*INJECTED, *HUMAN)
RATIO = 0.4


class Setting(NamedTuple):
    """A data set and how all methods train on it.

    Attributes:
      source: a name in DATASETS, or "features", a file.
      model: a name in MODELS.
      hidden: units of the hidden layers of an MLP.
      num_train: examples, trusted ones included; 0: all.
      num_clean, num_calibration: trusted examples, equally many of each class.
      num_steps: of every training, a multiple of 20.
      learning_rate: at the beginning, of SGD with momentum 0.9 and a cosine schedule.
      batch_size: also of the clean batch, as far as there are as many clean examples.
    """

    source: str
    model: str
    num_train: int
    num_clean: int
    num_calibration: int
    num_steps: int
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 0.02
    batch_size: int = 100


# In the order in which they are run.
SETTINGS = {
    "mnist": Setting("mnist", "mlp", 12_000, 50, 50, 3_000),
    "features": Setting("features", "mlp", 0, 500, 500, 5_000, (256,)),
    "digits": Setting("digits", "mlp", 0, 50, 50, 600),
    "pixels": Setting("cifar10", "small_cnn", 12_000, 500, 500, 800, (), 0.1),
    "mnist_lenet": Setting("mnist", "lenet", 12_000, 50, 50, 400, ()),
}


def quick(setting: Setting) -> Setting:
    """Returns a setting that is trained for a fifth of the steps, on at most 2,000 examples."""
    num_train = 2_000 if setting.source != "digits" else 0
    trusted = {"num_clean": min(setting.num_clean, 100)}
    trusted["num_calibration"] = min(setting.num_calibration, 100)
    return setting._replace(num_train=num_train, num_steps=setting.num_steps // 100 * 20, **trusted)


def has_noise(setting: Setting, noise: str) -> bool:
    """Returns whether the set has such labels: CIFAR-10N is of CIFAR-10."""
    return noise in INJECTED or setting.source in ("features", "cifar10")


class Data(NamedTuple):
    """What one cell of the table is trained on and judged by. Labels are int [N] in 0..K-1.

    Attributes:
      inputs: [N, ...], of the training examples that are not trusted.
      label: with noise.
      true_label: without.
      clean, calibration, test: pairs (inputs, label).
    """

    inputs: np.ndarray
    label: np.ndarray
    true_label: np.ndarray
    clean: tuple
    calibration: tuple
    test: tuple

    @property
    def trusted(self) -> tuple:
        """All trusted examples, which the others may train on."""
        return tuple(map(np.concatenate, zip(self.clean, self.calibration, strict=True)))


def load(setting: Setting, noise: str, seed: int, paths: dict[str, str]) -> Data:
    """Returns the data of a cell; `seed` decides every draw, and the background class.

    The draw of the examples is the same for every noise.

    Args:
      setting: what to read.
      noise: a name in NOISES.
      seed: at least 0.
      paths: {"features": npz, "human": npz, ...}; "" or missing if there is no such file.

    Raises:
      UserError: the set is not there.
    """
    (inputs, label), test = read(setting.source, paths.get(setting.source, ""))
    num_classes, rng = int(label.max()) + 1, np.random.default_rng((seed, 0))
    rows = np.arange(len(label))
    if setting.num_train:
        rows = np.sort(rng.choice(rows, setting.num_train, replace=False))
    trusted = []
    for total in (setting.num_clean, setting.num_calibration):
        counts = corrupt.even_counts(label[rows], num_classes, total)
        drawn = corrupt.draw_per_class(label[rows], counts, rng)
        trusted.append((inputs[rows[drawn]], label[rows[drawn]]))
        rows = np.delete(rows, drawn)
    if noise in HUMAN:
        given = read_human(paths.get("human", ""), noise, label)[rows]
    else:
        rng = np.random.default_rng((seed, 1))
        given = add_noise(label[rows], noise, setting.source, num_classes, seed, rng)
    return Data(inputs[rows], given, label[rows], *trusted, test)


def add_noise(label, noise, source, num_classes, seed, rng):
    """Returns the labels with injected noise, int [N]."""
    if noise == "none":
        return label
    if noise in ("uniform", "uniform10"):
        return corrupt.uniform_flip(label, 0.1 if noise == "uniform10" else RATIO, num_classes, rng)
    if noise == "background":
        classes = BACKGROUND_CLASSES.get(num_classes, (0,))
        return corrupt.background_flip(label, RATIO, classes[seed % len(classes)], rng)
    name = "cifar10" if source == "features" else source
    targets = corrupt.asymmetric_targets(name, tuple(range(num_classes)))
    return corrupt.asymmetric_flip(label, RATIO, targets, rng)


@functools.cache
def read(source: str, path: str) -> tuple[tuple, tuple]:
    """Returns the (inputs, label) of training and of testing, with right labels.

    `path`: an npz with train_input, train_label, test_input and test_label, or, as images,
    train_image and test_image; "": of the project's own data sets.
    """
    if not path:
        if source not in DATASETS:
            raise UserError(f"--{source}=PATH is not given")
        fields = default.get_config().data
        parts = DATASETS[source](fields)
        return tuple((parts[name].inputs, parts[name].label) for name in ("train", "test"))
    arrays = _arrays(source, path)
    return tuple(
        (_inputs(arrays, name, path), arrays[f"{name}_label"].astype(np.int64))
        for name in ("train", "test")
    )


def _arrays(flag, path):
    if not pathlib.Path(path).expanduser().is_file():
        raise UserError(f"--{flag}={path}: there is no such file")
    try:
        with np.load(pathlib.Path(path).expanduser(), allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise UserError(f"--{flag}={path}: cannot be read ({error})") from None


def _inputs(arrays, name, path):
    for kind in ("input", "image"):
        array = arrays.get(f"{name}_{kind}")
        if array is not None:
            array = array[..., None] if array.ndim == 3 else array  # images without a channel
            return array.astype(np.float32) if array.dtype.kind == "f" else array
    raise UserError(f"{path}: has neither {name}_input nor {name}_image")


def read_human(path: str, noise: str, label: np.ndarray) -> np.ndarray:
    """Returns the labels that people gave, int64 [N], in the order of the set's own `label`."""
    if not path:
        raise UserError("--human=PATH is not given")
    arrays = _arrays("human", path)
    if not np.array_equal(arrays["clean_label"], label):
        raise UserError(f"--human={path}: its images are in another order than the training set's")
    return arrays[HUMAN[noise]].astype(np.int64)
