"""Labels of any type become the arrays that a task computes with, or a message of one line."""

import numpy as np
import pytest

from reweight_jax.data.targets import MAX_CLASSES, encode


class NAType:
    """Stands in for pandas.NA, which has no truth value to compare with."""

    def __eq__(self, other):
        raise TypeError("boolean value of NA is ambiguous")

    __ne__ = __eq__


@pytest.mark.parametrize(
    "train, clean, classes, encoded",
    [
        ([2, 0, 1, 1], [0], (0, 1, 2), [2, 0, 1, 1]),  # no gap: as they are
        ([1, 2, 2], [1], (1, 2), [0, 1, 1]),
        ([0, 2, 5], [0], (0, 2, 5), [0, 1, 2]),
        ([-1, 1, -1], [1], (-1, 1), [0, 1, 0]),
        ([10**9, 3], [3], (3, 10**9), [1, 0]),
        ([0, 1], [2], (0, 1, 2), [0, 1]),  # a class that only the clean set has
        (["b", "a"], ["c"], ("a", "b", "c"), [1, 0]),
        (np.array(["b", "a"], object), np.array(["ccc"]), ("a", "b", "ccc"), [1, 0]),
        (np.array([b"b", b"a"]), ["a"], ("a", "b"), [1, 0]),
        ([True, False], [True], (False, True), [1, 0]),
        ([2.0, 1.0], [1], (1, 2), [1, 0]),
        (np.array([2, 1], np.uint8), np.array([1], np.int16), (1, 2), [1, 0]),
        (np.array([[1], [0]]), [[1]], (0, 1), [1, 0]),
        (np.array([np.int64(3), 1.0], object), [1], (1, 3), [1, 0]),
        (["é", "a"], ["a"], ("a", "é"), [1, 0]),
    ],
)
def test_classes(train, clean, classes, encoded):
    labels, names, num_outputs = encode("classification", {"train": train, "clean": clean})
    assert names == classes and num_outputs == len(classes)
    assert all(type(name) is type(expected) for name, expected in zip(names, classes, strict=True))
    assert labels["train"].dtype == labels["clean"].dtype == np.int32
    np.testing.assert_array_equal(labels["train"], encoded)
    back = [names[k] for k in labels["clean"]]
    assert back == [c.decode() if isinstance(c, bytes) else c for c in np.ravel(clean).tolist()]


def test_named_classes_keep_those_without_an_example():
    labels, names, num_outputs = encode("classification", {"train": [0, 3, 3.0]}, num_classes=5)
    assert names == (0, 1, 2, 3, 4) and num_outputs == 5
    np.testing.assert_array_equal(labels["train"], [0, 3, 3])


def test_the_order_of_examples_does_not_matter():
    rng = np.random.default_rng(0)
    names = np.array([f"class {k}" for k in range(50)])
    drawn = np.concatenate([names, rng.choice(names, 1000)])
    labels, classes, _ = encode("classification", {"train": drawn, "test": drawn[::-1]})
    assert classes == tuple(sorted(names.tolist()))
    np.testing.assert_array_equal(np.array(classes)[labels["train"]], drawn)
    np.testing.assert_array_equal(labels["test"], labels["train"][::-1])


@pytest.mark.parametrize(
    "labels, num_classes, message",
    [
        ({"train": [0, 0]}, 0, "train_label: all labels are 0; two classes are needed"),
        ({"train": [0.5, 1]}, 0, 'train_label: row 0 is 0.5, not a whole .* task="regression"'),
        ({"train": [1, np.nan]}, 0, "train_label: row 1 has no label"),
        ({"train": [1, np.inf]}, 0, "train_label: row 1 is inf, not a whole number"),
        ({"train": np.array(["a", None], object)}, 0, "train_label: row 1 has no label"),
        ({"train": np.array(["a", float("nan")], object)}, 0, "train_label: row 1 has no label"),
        ({"train": np.array([1, NAType()], object)}, 0, "train_label: row 1 has no label"),
        ({"train": ["a", "b"], "clean": ["a", " "]}, 0, "clean_label: row 1 has no label"),
        (
            {"train": np.array(["a", 1], object)},
            0,
            "labels are of the types int, str; give numbers",
        ),
        ({"train": np.array([(1,), {}], object)}, 0, "labels are of the types dict, tuple"),
        ({"train": np.zeros((2, 3))}, 0, r'train_label: shape \(2, 3\).*task="multi_label" takes'),
        ({"train": [1j, 2]}, 0, "train_label: is complex128; must be integers, strings or bools"),
        ({"train": [0, 1], "test": [0, 2]}, 0, "test_label: row 1 is 2, which is no .* set: 0, 1$"),
        (
            {"train": ["a", "b"], "calibration": ["b", "A"]},
            0,
            "calibration_label: row 1 is A, which",
        ),
        ({"train": [0, 1], "test": ["0"]}, 0, "different types: train_label int64, test_label <U1"),
        ({"train": np.arange(MAX_CLASSES + 1)}, 0, 'more than 100000 classes.*task="regression"'),
        ({"train": np.array([0, 1 << 63], np.uint64)}, 0, "9223372036854775808 is too large"),
        (
            {"train": [0, 10**9]},
            10,
            "train_label: row 1 is 1000000000, which is no label of num_classes 10 .*: 0, 1, 2, ",
        ),
        (
            {"train": [0, 1], "test": [-1]},
            2,
            "test_label: row 0 is -1, .* of num_classes 2 .*: 0, 1$",
        ),
        (
            {"train": ["a", "b"]},
            2,
            r"different types: train_label <U1, num_classes 2 \(0: from the labels\) int64",
        ),
        ({"train": [0, 1]}, 10**9, "num_classes: 1000000000; must be in 2..100000"),
        ({"train": np.ma.array([0, 1, 1], mask=[0, 0, 1])}, 0, "row 2 has no label"),
    ],
)
def test_labels_that_are_no_classes(labels, num_classes, message):
    with pytest.raises(ValueError, match=message) as error:
        encode("classification", labels, num_classes=num_classes)
    assert "\n" not in str(error.value) and "config" not in str(error.value)


def test_long_lists_of_classes_are_cut():
    with pytest.raises(ValueError, match=r"set: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.$"):
        encode("classification", {"train": np.arange(11), "test": [11]})


@pytest.mark.parametrize(
    "train, expected",
    [
        ([[1, 0], [0, 1]], [[1, 0], [0, 1]]),
        ([[True, False]], [[1, 0]]),
        ([[1.0, np.nan], [-1, 0]], [[1, -1], [-1, 0]]),
        (np.array([[1, None], [True, NAType()]], object), [[1, -1], [1, -1]]),
        ([1, 0, -1], [[1], [0], [-1]]),
    ],
)
def test_tags(train, expected):
    labels, classes, num_outputs = encode("multi_label", {"train": train})
    assert labels["train"].dtype == np.int32
    np.testing.assert_array_equal(labels["train"], expected)
    assert classes == tuple(range(num_outputs)) and num_outputs == len(expected[0])


def test_masked_tags_are_unknown():
    label = np.ma.array([[0, 1], [1, 1]], mask=[[0, 0], [1, 0]])
    labels, *_ = encode("multi_label", {"train": label})
    np.testing.assert_array_equal(labels["train"], [[0, 1], [-1, 1]])


def test_tags_have_names():
    labels = {"train": [[1, 0]], "test": [[0, -1]]}
    assert encode("multi_label", labels, tags=("cat", "dog"))[1:] == (("cat", "dog"), 2)


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"train": [[0, 2]]}, "train_label: row 0, tag dog is 2; must be 0, 1, or -1"),
        ({"train": [[0, 0.5]]}, "train_label: row 0, tag dog is 0.5"),
        (
            {"train": np.zeros((2, 2, 2))},
            r"train_label: shape \(2, 2, 2\); multi_label needs \[N, K",
        ),
        ({"train": [[0, 1], ["a", 1]]}, r"train_label: row 1 is \['a', '1'\]; must be 0, 1"),
        ({"train": [[0, 1]], "test": [[0]]}, r"test_label: a row has shape \(1,\), in train_label"),
    ],
)
def test_labels_that_are_no_tags(labels, message):
    with pytest.raises(ValueError, match=message):
        encode("multi_label", labels, tags=("cat", "dog"))


@pytest.mark.parametrize(
    "train, expected, num_outputs",
    [
        ([1, 2.5, -3], [1, 2.5, -3], 1),
        ([[1], [2]], [1, 2], 1),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], 2),
        (np.array([1, 2.5], object), [1, 2.5], 1),
        (["1.5", "2"], [1.5, 2], 1),
    ],
)
def test_values(train, expected, num_outputs):
    labels, classes, outputs = encode("regression", {"train": train})
    assert labels["train"].dtype == np.float32 and classes == () and outputs == num_outputs
    np.testing.assert_array_equal(labels["train"], expected)


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"train": [1, np.nan]}, "train_label: row 1 is missing or not finite"),
        ({"train": [[1, 2], [3, None]]}, "train_label: row 1 is missing or not finite"),
        ({"train": [0, 1e39]}, "train_label: row 1 is missing or not finite"),
        ({"train": ["1", "two"]}, r"train_label: row 1 is \['two'\]; must be a number"),
        ({"train": np.zeros((2, 3, 4))}, r"train_label: shape \(2, 3, 4\); regression needs"),
        ({"train": [1, 2], "test": [[1, 2]]}, r"test_label: a row has shape \(2,\)"),
        ({"train": np.ma.array([1, 2], mask=[0, 1])}, "train_label: row 1 is missing"),
        (
            {"train": np.array(["2020-01-01", "NaT"], "M8[D]")},
            "train_label: is datetime64.*must be",
        ),
        ({"train": np.array([1, 2j])}, "train_label: is complex128 .*must be a number per example"),
        ({"train": "label"}, r"train_label: is <U5 \(\); must be a number per example"),
    ],
)
def test_labels_that_are_no_values(labels, message):
    with pytest.raises(ValueError, match=message):
        encode("regression", labels)


def test_an_unknown_task():
    valid = "classification, multi_label, regression"
    with pytest.raises(ValueError, match=f"^task: unknown name 'ranking'; valid: {valid}"):
        encode("ranking", {"train": [0, 1]})


@pytest.mark.parametrize(
    "label",
    [np.array(["1_5", "2"]), ["1", "1_5"], np.array(["1_5", None]), np.array(["1_5", "2"], "T")],
)
def test_an_underscore_makes_no_number(label):
    with pytest.raises(ValueError, match="train_label: row . is .'1_5'.; must be a number"):
        encode("regression", {"train": label})


@pytest.mark.parametrize("base, deviation", [(1.7e9, 30.0), (1e8, 5.0)])
def test_values_that_float32_cannot_tell_apart_are_an_error(base, deviation):
    values = base + deviation * np.random.default_rng(0).normal(size=200)
    with pytest.raises(ValueError, match=r"train_label: column 0 is .*too little for float32; sub"):
        encode("regression", {"train": values, "clean": values[:20]})
    encode("regression", {"train": values - base, "clean": values[:20] - base})
    encode("regression", {"train": np.full(9, base)})  # a constant has nothing to lose


def test_a_name_that_looks_the_same_is_the_same_class():
    labels, classes, _ = encode(
        "classification", {"train": ["B\u00e4r", "x"], "clean": ["Ba\u0308r"]}
    )
    assert classes == ("B\u00e4r", "x") and labels["clean"].tolist() == [0]


def test_a_tag_may_not_have_what_separates_tags():
    with pytest.raises(ValueError, match="tag 'cat;big': must not contain ';'"):
        encode("multi_label", {"train": np.ones((3, 1))}, tags=("cat;big",))
    with pytest.raises(ValueError, match=r"tag '\?cat': is how 'cat' is written if it is not"):
        encode("multi_label", {"train": np.ones((3, 2))}, tags=("?cat", "cat"))
