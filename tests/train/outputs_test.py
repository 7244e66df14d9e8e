"""Names of trusted examples: those of the source, or rows in the file they are from."""

import types

import numpy as np
import pytest

from reweight_jax.train.outputs import _names


def indexed(index):
    return types.SimpleNamespace(index=np.array(index))


@pytest.mark.parametrize(
    "index, expected",
    [
        ([7, 2], [7, 2]),  # drawn from the training set
        ([102, 100, 101], [2, 0, 1]),  # a whole file
        ([103, 101], [3, 1]),  # a part of it: the rest is for calibration
        ([150, 151], [0, 1]),  # the second of two files
    ],
)
def test_rows_are_those_of_the_file(index, expected):
    splits = types.SimpleNamespace(train=indexed(range(100)))
    experiment = types.SimpleNamespace(splits=splits, ids=None)
    assert _names(experiment, indexed(index)).tolist() == expected


def test_names_come_first():
    experiment = types.SimpleNamespace(
        splits=types.SimpleNamespace(train=indexed([0, 1])), ids=np.array(["a", "b", "c.png"])
    )
    assert _names(experiment, indexed([2])).tolist() == ["c.png"]
