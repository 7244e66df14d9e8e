"""Splits: exact sizes, drawn by the seed alone; parts that the source brings are left whole."""

import numpy as np
import pytest

from configs import default
from reweight_jax.data import sources
from reweight_jax.data.examples import LazyInputs, Part, concatenate
from reweight_jax.data.splits import CLEAN_MISSING, load, make_data
from reweight_jax.errors import UserError


def make_config(task="classification", **fields):
    config = default.get_config()
    config.task = task
    config.data.update({"name": "digits", "num_hyper_val": 100} | fields)
    return config


def rows(data):
    return {name: part and part.index.tolist() for name, part in data.splits._asdict().items()}


def test_imbalanced_splits_are_exact_and_disjoint():
    config = make_config(
        classes=(4, 9),
        dominant_class=9,
        imbalance_ratio=9.0,
        num_train=100,
        num_clean=6,
        num_hyper_val=20,
        balanced_test=True,
    )
    data = load(config, 0)
    splits = data.splits
    assert data.classes == (4, 9) and data.num_outputs == 2 and data.ids is None
    np.testing.assert_array_equal(np.bincount(splits.clean.label), [3, 3])
    np.testing.assert_array_equal(np.bincount(splits.train.label), [10 - 3, 90 - 3])
    np.testing.assert_array_equal(np.bincount(splits.hyper_val.label), [2, 18])
    assert len(set(np.bincount(splits.test.label))) == 1
    parts = (splits.train, splits.clean, splits.hyper_val)
    used = np.concatenate([part.index for part in parts])
    assert len(set(used.tolist())) == len(used) == 120
    assert splits.calibration is None
    # The rows lead back to the source: label 0 is digit 4 and label 1 is digit 9.
    source = sources.digits(None)["train"]
    for part in parts:
        np.testing.assert_array_equal(np.array([4, 9])[part.label], source.label[part.index])
        np.testing.assert_array_equal(part.inputs, source.inputs[part.index])
        np.testing.assert_array_equal(part.true_label, part.label)


def test_the_seed_alone_draws_the_splits():
    config = make_config(num_clean=20, num_calibration=10)
    assert rows(load(config, 1)) == rows(load(config, 1))
    for name in ("train", "clean", "calibration", "hyper_val"):
        assert rows(load(config, 1))[name] != rows(load(config, 2))[name]
    # Without imbalance every class keeps its share, and all that is left over is training data.
    splits = load(config, 1).splits
    assert splits.train.size == 1198 - 100 - 20
    np.testing.assert_array_equal(np.bincount(splits.clean.label), [1] * 10)
    np.testing.assert_array_equal(np.bincount(splits.calibration.label), [1] * 10)
    share = np.bincount(splits.hyper_val.label)
    assert share.min() >= 9 and share.max() <= 11
    used = [rows(load(config, 1))[name] for name in ("train", "clean", "calibration", "hyper_val")]
    assert sorted(sum(used, [])) == list(range(1198))


def test_a_draw_does_not_depend_on_the_others():
    """Each purpose has its own stream: more clean examples leave hyper_val as it is."""
    few, many = (rows(load(make_config(num_clean=n), 3)) for n in (10, 50))
    assert few["hyper_val"] == many["hyper_val"] and few["test"] == many["test"]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "svhn"}, "config.data.name: unknown name 'svhn'; valid: cifar10, "),
        ({"classes": (4, 40)}, r"config.data.classes: \(4, 40\); .* labels of: 0, 1"),
        ({"classes": (4,)}, "config.data.classes"),
        ({"num_clean": 15}, "config.data.num_clean: 15 is not a multiple of the 10 classes"),
        ({"num_clean": 1090}, "config.data.num_clean: needs 109 examples of class"),
        ({"num_clean": 2000}, "config.data.num_clean: 2000 examples wanted, of 1098 left"),
        ({"num_train": 5000}, "config.data.num_train: 5000 examples wanted, of 1198 left"),
        ({"num_train": 1190}, "config.data.num_hyper_val: 100 examples wanted, of 8 left"),
        (
            {"num_train": 10, "num_hyper_val": 0, "imbalance_factor": 1.0, "num_clean": 10},
            "config.data.num_clean: ",
        ),
        ({"num_calibration": 30}, "config.data.num_calibration: 30 examples wanted, of 10 left"),
        ({"num_calibration": 10}, "config.data.num_calibration: takes the whole clean set"),
        ({"num_clean": 0, "num_calibration": 10}, "config.data.num_calibration: there is no trust"),
        ({"num_classes": 5}, r"^digits: train_label: row \d+ is [5-9], .* of num_classes 5 "),
        ({"imbalance_ratio": 5.0}, "config.data.num_train: 0; imbalance_ratio needs a number"),
        ({"imbalance_ratio": 0.5, "num_train": 50}, "config.data.imbalance_ratio: ratio 0.5 must"),
        (
            {"num_train": 50, "imbalance_ratio": 5.0, "classes": (4, 9), "dominant_class": 3},
            r"config.data.dominant_class: 3 is not in \(4, 9\)",
        ),
    ],
)
def test_impossible_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message) as error:
        load(make_config(**fields), 0)
    assert "\n" not in str(error.value)


# --- A user's own parts ---------------------------------------------------------------------------


def part(size, first=0, classes=("a", "b", "c"), **fields):
    """Rows that can be told apart: input i is (i, 2i), its label is that of i modulo K."""
    row = np.arange(first, first + size)
    return Part(np.stack([row, 2 * row], 1).astype(float), np.resize(classes, size), **fields)


def own(task="classification", **fields):
    return make_config(task, **({"name": "npz", "num_hyper_val": 0} | fields))


def test_parts_are_taken_whole_in_their_order():
    parts = {
        "train": part(30, id=np.array([f"t{i}" for i in range(30)])),
        "clean": part(7, 100, id=np.array([f"c{i}" for i in range(7)])),
        "calibration": part(6, 200),
        "hyper_val": part(5, 300),
        "test": part(8, 400),
    }
    data = make_data(parts, own(num_clean=3, num_hyper_val=500), 0)
    assert data.classes == ("a", "b", "c") and data.num_outputs == 3
    first = dict(zip(parts, (0, 30, 37, 43, 0), strict=True))
    for name, given in parts.items():
        examples = getattr(data.splits, name)
        np.testing.assert_array_equal(examples.inputs, given.inputs.astype(np.float32))
        assert examples.inputs.dtype == np.float32
        np.testing.assert_array_equal(np.array(data.classes)[examples.label], given.label)
        np.testing.assert_array_equal(examples.index, first[name] + np.arange(len(given.label)))
        assert examples.true_label is None
    assert data.ids[data.splits.train.index].tolist() == [f"t{i}" for i in range(30)]
    assert data.ids[data.splits.clean.index].tolist() == [f"c{i}" for i in range(7)]
    assert len(data.ids) == 48


def test_noise_never_touches_what_was_given():
    parts = {"train": part(300), "clean": part(30, 500), "hyper_val": part(30, 600)}
    config = own(noise="uniform_flip", noise_ratio=0.5)
    splits = make_data(parts, config, 0).splits
    changed = splits.train.label != splits.train.true_label
    assert changed.sum() == 150
    np.testing.assert_array_equal(splits.train.true_label, np.resize([0, 1, 2], 300))
    for name in ("clean", "hyper_val"):
        np.testing.assert_array_equal(getattr(splits, name).label, np.resize([0, 1, 2], 30))


@pytest.mark.parametrize(
    "fields, is_known",
    [
        ({}, False),
        ({"labels_are_right": True}, True),
        ({"noise": "uniform_flip", "noise_ratio": 0.3}, True),
        ({"imbalance_factor": 2.0}, True),
    ],
)
def test_clean_is_drawn_only_from_labels_that_are_known(fields, is_known):
    data = make_data({"train": part(60)}, own(num_clean=12, **fields), 0)
    clean, train = data.splits.clean, data.splits.train
    assert (clean is not None) == (train.true_label is not None) == is_known
    if is_known:
        np.testing.assert_array_equal(clean.label, clean.index % 3)
        np.testing.assert_array_equal(np.bincount(clean.label), [4, 4, 4])
        assert not set(clean.index.tolist()) & set(train.index.tolist())
    with pytest.raises(UserError, match="^config.data.num_calibration: ") as error:
        make_data({"train": part(60)}, own(num_clean=12, num_calibration=4), 0)
    assert CLEAN_MISSING in str(error.value) and "\n" not in str(error.value)


def test_calibration_has_the_shares_of_the_clean_set():
    clean = Part(np.arange(50.0)[:, None], ["a"] * 30 + ["b"] * 15 + ["c"] * 5)
    train = Part(np.arange(20.0)[:, None], np.resize(["a", "b", "c"], 20))
    data = make_data({"train": train, "clean": clean}, own(num_calibration=20), 4)
    calibration, rest = data.splits.calibration, data.splits.clean
    np.testing.assert_array_equal(np.bincount(calibration.label), [12, 6, 2])
    np.testing.assert_array_equal(np.bincount(rest.label), [18, 9, 3])
    both = np.concatenate([calibration.index, rest.index])
    assert sorted(both.tolist()) == list(range(20, 70))
    np.testing.assert_array_equal(calibration.inputs[:, 0], calibration.index - 20)


@pytest.mark.parametrize("task", ["regression", "multi_label"])
def test_tasks_without_classes_are_drawn_from_all_examples_alike(task):
    size = 400
    label = (
        np.arange(size) % 2 if task == "regression" else np.eye(4, dtype=int)[np.arange(size) % 4]
    )
    train = Part(np.arange(size, dtype=float)[:, None], label)
    config = own(task, labels_are_right=True, num_clean=101, num_hyper_val=50, num_calibration=7)
    data = make_data({"train": train}, config, 0)
    splits = data.splits
    sizes = [s.size for s in (splits.train, splits.clean, splits.calibration, splits.hyper_val)]
    assert sizes == [400 - 151, 94, 7, 50]
    for examples in (splits.train, splits.clean, splits.calibration, splits.hyper_val):
        np.testing.assert_array_equal(examples.label, label[examples.index])
        np.testing.assert_array_equal(examples.inputs[:, 0], examples.index)
    used = np.concatenate([s.index for s in splits[:4]])
    assert sorted(used.tolist()) == list(range(400))
    assert (data.classes, data.num_outputs) == (
        ((), 1) if task == "regression" else ((0, 1, 2, 3), 4)
    )
    config.data.num_hyper_val = 401
    with pytest.raises(UserError, match="config.data.num_hyper_val: 401 examples wanted, of 400"):
        make_data({"train": train}, config, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"noise": "uniform_flip"},
        {"noise_ratio": 0.1},
        {"imbalance_ratio": 2.0},
        {"imbalance_factor": 2.0},
        {"classes": (0, 1)},
        {"balanced_test": True},
        {"num_classes": 3},
    ],
)
def test_fields_of_classes_are_errors_for_other_tasks(fields):
    (name,) = fields
    train = Part(np.arange(20.0)[:, None], np.arange(20.0))
    with pytest.raises(UserError, match=f"^config.data.{name}: .* config.task is regression"):
        make_data({"train": train}, own("regression", **fields), 0)


def test_clean_in_train_is_appended():
    parts = {"train": part(20), "clean": part(6, 100)}
    splits = make_data(parts, own(), 0).splits
    train = concatenate(splits.train, splits.clean)
    assert train.size == 26 and splits.clean.size == 6
    np.testing.assert_array_equal(train.inputs[20:], splits.clean.inputs)
    np.testing.assert_array_equal(train.label[20:], splits.clean.label)
    assert len(set(train.index.tolist())) == 26


def test_pandas_and_lists_and_dicts_are_inputs():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"height": [1.5, 2, 3], "width": [3, 4, 5]})
    label = pandas.Series(["yes", "no", "yes"], index=[7, 3, 9])
    data = make_data({"train": Part(frame, label)}, own(), 0)
    np.testing.assert_array_equal(data.splits.train.inputs, [[1.5, 3], [2, 4], [3, 5]])
    assert data.columns == ("height", "width") and data.classes == ("no", "yes")
    assert data.splits.train.label.tolist() == [1, 0, 1]
    tags = pandas.DataFrame({"cat": [1, 0, None], "dog": [0, 1, 1]})
    data = make_data({"train": Part(frame, tags)}, own("multi_label"), 0)
    assert data.classes == ("cat", "dog")
    assert data.splits.train.label.tolist() == [[1, 0], [0, 1], [-1, 1]]
    inputs = {"ids": [[1, 2], [3, 4]], "mask": np.ones((2, 2), bool)}
    train = make_data({"train": Part(inputs, [0, 1])}, own(), 0).splits.train
    assert train.inputs["ids"].dtype == np.int32 and train.inputs["mask"].dtype == bool
    np.testing.assert_array_equal(train.take(np.array([1])).inputs["ids"], [[3, 4]])


def test_types_of_inputs():
    def inputs(array, label=(0, 1)):
        return make_data({"train": Part(array, label)}, own(), 0).splits.train.inputs

    assert inputs(np.zeros((2, 5, 4), np.uint8)).shape == (2, 5, 4, 1)
    assert inputs(np.zeros((2, 5, 4), np.float32)).shape == (2, 5, 4)
    assert inputs(np.zeros((2, 3), np.float16)).dtype == np.float16
    assert inputs(np.zeros((2, 3), np.int64)).dtype == np.int32
    assert inputs(np.zeros((2, 3), np.int8)).dtype == np.int8
    assert inputs(np.zeros((2, 3), bool)).dtype == np.float32
    assert inputs(np.array([[1, 2.5], [3, 4]], object)).dtype == np.float32
    lazy = LazyInputs(np.zeros((2, 3)))
    assert inputs(lazy) is lazy
    # Nothing was drawn, so nothing is copied.
    array = np.zeros((2, 3), np.float32)
    assert np.shares_memory(inputs(array), array)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": part(0)}, r"^data: train_(input|label)"),
        ({"trian": part(3)}, "^data: has the parts .*trian.*; valid: train, clean"),
        ({"test": (1, 2)}, "^data: its part test is a tuple; must be a Part"),
        (
            {"train": Part(np.zeros((3, 2)), [0, 1])},
            "train_input has 3 rows, but train_label has 2",
        ),
        ({"train": Part(np.zeros(3), [0, 1, 0])}, r"train_input: shape \(3,\); must be \[N, ...\]"),
        ({"train": Part(5, [0])}, "train_input: not an array with one row per example"),
        ({"train": Part({}, [0])}, "train_input: an empty dict"),
        (
            {"train": Part(np.array([[1, 2], [np.nan, 2], [1, np.inf]]), [0, 1, 0])},
            "train_input: row 1 has a value that is missing or not finite",
        ),
        ({"train": Part(np.full((2, 1), 1e39), [0, 1])}, "train_input: row 0 has a value"),
        ({"train": Part([["x"], ["y"]], [0, 1])}, "train_input: is <U1; must be numbers"),
        (
            {"train": Part(np.array([["x"], [1]], object), [0, 1])},
            "train_input: row 0 is 'x'; encode",
        ),
        ({"train": Part([[1 << 31], [0]], [0, 1])}, "integers must fit in 32 bits"),
        (
            {"clean": Part(np.zeros((2, 3)), ["a", "b"])},
            r"clean_input: a row has shape \(3,\), but",
        ),
        (
            {"test": Part(np.zeros((2, 2), np.uint8), ["a", "b"])},
            "test_input: is uint8, but train_",
        ),
        ({"test": Part({"x": np.zeros((2, 2))}, ["a", "b"])}, "test_input: must be a dict"),
        (
            {"train": Part({"x": np.zeros((2, 2)), "y": np.zeros((3, 2))}, ["a", "b"])},
            r"train_input: arrays of different length, \[2, 3\]",
        ),
    ],
)
def test_malformed_parts_are_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        make_data({"train": part(9)} | changes, own(), 0)
    assert "\n" not in str(error.value) and str(error.value).startswith("data: ")


def test_types_of_other_parts_are_trains():
    parts = {"train": part(9), "test": Part(np.ones((2, 2), int), ["a", "b"])}
    assert make_data(parts, own(), 0).splits.test.inputs.dtype == np.float32
