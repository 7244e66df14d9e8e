"""What is said of the data before training: labels and rows that look like mistakes."""

import numpy as np
import pytest

from reweight_jax.data.examples import Examples, LazyInputs, Splits
from reweight_jax.data.remarks import remarks

CLASSES = ("cat", "dog", "Dog")


def part(inputs, label, start=0):
    label = np.asarray(label, np.int32)
    return Examples(inputs, label, None, start + np.arange(len(label)))


def random(num, seed=0):
    return np.random.default_rng(seed).normal(size=(num, 5)).astype(np.float32)


def splits(inputs=None, label=None, **parts):
    inputs = random(60) if inputs is None else inputs
    return Splits(part(inputs, np.arange(60) % 2 if label is None else label), **parts)


def of_train(rows, label=None):
    """Examples with the inputs of these rows of `splits().train`, and new ones."""
    inputs = np.concatenate([random(60)[rows], random(20 - len(rows), seed=1)])
    return part(inputs, np.arange(20) % 2 if label is None else label, start=60)


def test_nothing_is_said_of_disjoint_parts():
    of_test = part(random(20, seed=2), np.arange(20) % 2)
    assert remarks(splits(clean=of_train([]), test=of_test), CLASSES) == []
    assert remarks(splits(), CLASSES) == []


def test_a_label_that_only_clean_examples_have():
    (told,) = remarks(splits(clean=of_train([], [0, 1] * 9 + [2, 2])), CLASSES)
    assert told.startswith("No training example has a label that trusted ones have: 'Dog'.")
    assert remarks(splits(clean=of_train([], [0, 1] * 9 + [2, 2])), ()) == []  # of a regression
    (told,) = remarks(splits(calibration=of_train([], [0, 2] * 10)), CLASSES)
    assert "trusted ones have: 'Dog'." in told


@pytest.mark.parametrize("name", ["calibration", "hyper_val", "test"])
def test_held_out_examples_that_are_in_the_training_set_too(name):
    (told,) = remarks(splits(**{name: of_train([4, 6, 8])}), CLASSES)
    assert told.startswith(f"3 of 20 {name} examples are in the training set too. Leave them out")
    assert remarks(splits(**{name: of_train([4, 6, 8])}), ()) == [told]


def test_held_out_examples_that_are_in_the_clean_set_too():
    clean = of_train([])
    (told,) = remarks(splits(clean=clean, calibration=clean.take(np.arange(5))), CLASSES)
    assert told.startswith("5 of 5 calibration examples are in the clean set too. Leave")


def test_clean_examples_that_have_another_label_in_the_training_set():
    ids = np.array([f"{row}.png" for row in range(80)])
    clean = of_train([4, 6, 8])  # of label 0 there, and of 0, 1, 0 here
    (told,) = remarks(splits(clean=clean), CLASSES, ids)
    assert told.startswith("1 of 20 clean examples are in the training set too, with another label")
    assert "(there: id 6.png)" in told
    # So are those of clean="confident".
    assert remarks(splits(clean=of_train([4, 6, 8], [0] * 20)), CLASSES) == []


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_any_of_several_equal_training_rows_may_have_another_label(order):
    inputs = np.concatenate([random(60), random(60)])
    label = np.concatenate([np.array([[0] * 60, [1] * 60])[i] for i in order])
    clean = of_train([4], [0] * 20)
    clean = clean._replace(index=clean.index + 60)
    (told,) = remarks(splits(inputs, label, clean=clean), CLASSES)
    assert f"with another label (there: row {4 + 60 * order.index(1)})" in told
    assert told.endswith("But 50% of the training set repeats itself: it may be by chance.")


def test_tags_and_numbers_that_contradict_the_training_set():
    tags = np.array([[0, 1, -1]] * 59 + [[1, 0, 1]])
    tagged = splits(label=tags, clean=of_train([3], [[0, -1, 1]] * 20))
    assert remarks(tagged, CLASSES) == []  # of a tag that is not known nothing can be said
    for never in (0, -1):  # no example has it, or it is known of none
        unused = np.where(tags == [[2, 2, 1]], never, tags)
        (told,) = remarks(tagged._replace(train=tagged.train._replace(label=unused)), CLASSES)
        assert told.startswith("No training example has a tag that trusted ones have: 'Dog'. Check")
    (told,) = remarks(tagged._replace(clean=of_train([3], [[0, 0, 1]] * 20)), CLASSES)
    assert told.startswith("1 of 20 clean examples are in the training set too, with another")
    values = np.linspace(-1, 1, 60).astype(np.float32)
    of_numbers = splits()._replace(train=splits().train._replace(label=values))
    clean = of_train([3, 5])
    clean = clean._replace(label=np.full(20, 7, np.float32))
    assert remarks(of_numbers._replace(clean=clean), ()) == []  # it may have been measured twice


def test_inputs_of_several_arrays_are_equal_if_all_are():
    a, b = random(60), random(60, seed=3)
    both = {"a": a[:20].copy(), "b": b[:20].copy()}
    both["b"][5:] += 1
    (told,) = remarks(splits({"a": a, "b": b}, test=part(both, np.arange(20) % 2)), CLASSES)
    assert told.startswith("5 of 20 test examples are in the training set too. Leave")


def test_clean_examples_that_are_trained_on_are_no_remark():
    clean = of_train([])
    both = part(np.concatenate([random(60), clean.inputs]), [0, 1] * 40)
    assert remarks(Splits(both, clean), CLASSES) == []
    only = of_train([], [2] * 20)  # a class of which only clean examples are there
    both = both._replace(label=np.concatenate([both.label[:60], only.label]))
    assert len(remarks(Splits(both, only), CLASSES)) == 1


def test_of_rows_that_repeat_themselves_it_is_told_that_they_do():
    few = np.arange(60).reshape(60, 1) % 4 * np.ones((1, 5), np.float32)
    (told,) = remarks(splits(few, test=part(few[:20], np.arange(20) % 2)), CLASSES)
    assert told.startswith("20 of 20 test examples are in the training set too. Leave")
    assert told.endswith("But 93% of the training set repeats itself: it may be by chance.")


def test_a_few_held_out_examples_are_no_remark():
    # A single one of a hundred: such images are in CIFAR-10.
    tested = np.concatenate([random(1), random(99, seed=4)])
    assert remarks(splits(test=part(tested, np.arange(100) % 2)), CLASSES) == []


def test_inputs_on_a_disk_are_not_read():
    class Unread:
        shape, dtype = (20, 5), np.float32

    lazy = part(LazyInputs(Unread()), np.arange(20) % 2)
    assert remarks(splits(test=lazy), CLASSES) == []
    assert remarks(Splits(lazy, test=of_train([1])), CLASSES) == []
