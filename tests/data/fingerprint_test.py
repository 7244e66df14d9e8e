"""The fingerprint of the data: what it notices, and what it does not."""

import numpy as np
import pytest

from reweight_jax.data.examples import Examples, LazyInputs, Splits
from reweight_jax.data.fingerprint import fingerprint


def splits(inputs, label):
    examples = Examples(inputs, label, None, np.arange(len(label)))
    return Splits(examples, clean=examples.take(np.arange(3)))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5_000, 2)).astype(np.float32), rng.integers(0, 9, 5_000)


def test_the_same_data_has_the_same_fingerprint(data):
    x, y = data
    before = fingerprint(splits(x, y))
    assert set(before) == {"train", "clean", "train_rows", "clean_rows"}
    assert len(before["train"]) == len(before["train_rows"]) == 32
    assert fingerprint(splits(np.asfortranarray(x), y.copy())) == before
    named = fingerprint(splits({"a": x, "b": x + 1}, y))
    assert fingerprint(splits({"b": x + 1, "a": x}, y)) == named  # in another order
    assert fingerprint(splits({"b": x, "a": x + 1}, y)) != named
    lazy = fingerprint(splits(LazyInputs(x), y))
    assert lazy == {name: before[name] for name in ("train", "clean")}


def test_any_label_changes_it_and_only_that_of_its_split(data):
    x, y = data
    before = fingerprint(splits(x, y))
    for row in (3, 1234, 4999):
        changed = y.copy()
        changed[row] += 1
        after = fingerprint(splits(x, changed))
        assert after["train"] != before["train"] and after["clean"] == before["clean"]


@pytest.mark.parametrize("change", [lambda x: x + 1e-3, lambda x: x[::-1], lambda x: x[:, ::-1],
                                    lambda x: x.astype(np.float64)])  # fmt: skip
def test_other_inputs_change_it(change, data):
    x, y = data
    assert fingerprint(splits(change(x), y)) != fingerprint(splits(x, y))


def test_few_rows_of_lazy_inputs_are_read(data):
    x, y = data
    read = []

    class Source:
        shape, dtype = x.shape, x.dtype

        def __getitem__(self, rows):
            read.extend(rows)
            return x[rows]

    before = fingerprint(Splits(Examples(LazyInputs(Source()), y, None, np.arange(5_000))))
    assert len(read) == 50 and {0, 4_999} <= set(read)
    x[4_999] = 0
    after = fingerprint(Splits(Examples(LazyInputs(Source()), y, None, np.arange(5_000))))
    assert after != before
