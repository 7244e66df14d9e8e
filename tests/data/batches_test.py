"""Batches: a function of seed and step, in epochs."""

import numpy as np

from reweight_jax.data.batches import batch_rows, class_balanced, shuffled


def test_batches_are_a_function_of_seed_and_step():
    labels = np.arange(103) % 3
    for sampler in (shuffled, class_balanced):
        whole = batch_rows(sampler(labels, 5), 0, 30, 10)
        parts = [batch_rows(sampler(labels, 5), step, 3, 10) for step in range(0, 30, 3)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))
        assert whole.dtype == np.int32 and whole.shape == (30, 10)
        assert not np.array_equal(whole, batch_rows(sampler(labels, 6), 0, 30, 10))


def test_every_example_once_an_epoch_in_a_new_order():
    stream = batch_rows(shuffled(np.zeros(50), 0), 0, 10, 10).ravel()  # two epochs
    np.testing.assert_array_equal(np.sort(stream[:50]), np.arange(50))
    np.testing.assert_array_equal(np.sort(stream[50:]), np.arange(50))
    assert not np.array_equal(stream[:50], stream[50:])


def test_labels_of_any_shape_are_only_counted():
    expected = batch_rows(shuffled(np.zeros(50), 3), 0, 4, 10)
    np.testing.assert_array_equal(batch_rows(shuffled(np.zeros((50, 7)), 3), 0, 4, 10), expected)


def test_clean_batches_have_their_own_order():
    rows = [
        batch_rows(shuffled(np.zeros(50), 3, stream), 0, 5, 10) for stream in ("train", "clean")
    ]
    assert not np.array_equal(*rows)
    np.testing.assert_array_equal(np.sort(rows[1].ravel()), np.arange(50))


def test_class_balanced_batches():
    labels = np.array([0] * 90 + [2] * 7 + [3] * 3)  # class 1 is empty
    batch = batch_rows(class_balanced(labels, 0), 0, 1, 12)[0]
    np.testing.assert_array_equal(np.bincount(labels[batch]), [4, 0, 4, 4])
    stream = batch_rows(class_balanced(labels, 0), 0, 30, 9).ravel()  # 90 of each class
    counts = np.bincount(stream, minlength=100)
    np.testing.assert_array_equal(counts[:90], 1)
    np.testing.assert_array_equal(counts[97:], 30)
    assert set(counts[90:97]) == {12, 13}


def test_classes_of_one_size_are_in_different_orders():
    rows = batch_rows(class_balanced(np.repeat([0, 1], 40), 0), 0, 1, 80)[0]
    assert not np.array_equal(rows[0::2], rows[1::2] - 40)
