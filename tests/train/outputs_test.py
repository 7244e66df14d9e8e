"""Names of trusted examples: those of the source, or rows in the part that they are from."""

import types

import numpy as np
import pytest

from reweight_jax.train.outputs import _names


@pytest.mark.parametrize(
    "split, starts, index, expected",
    [
        ("clean", {"train": 0}, [7, 2], [7, 2]),  # drawn from the training set
        ("clean", {"train": 0, "clean": 100}, [103, 101], [3, 1]),
        ("calibration", {"train": 0, "clean": 100}, [103, 101], [3, 1]),  # drawn from the clean one
        ("calibration", {"train": 0}, [7, 2], [7, 2]),  # and that from the training set
        ("calibration", {"train": 0, "clean": 100, "calibration": 150}, [150, 151], [0, 1]),
        ("calibration", {"train": 0, "calibration": 100}, [103, 101], [3, 1]),
        ("clean", {"train": 0, "calibration": 100}, [7, 2], [7, 2]),
    ],
)
def test_rows_are_those_of_the_part(split, starts, index, expected):
    experiment = types.SimpleNamespace(starts=starts, ids=None)
    examples = types.SimpleNamespace(index=np.array(index))
    assert _names(experiment, split, examples).tolist() == expected


def test_names_come_first():
    experiment = types.SimpleNamespace(starts={"train": 0}, ids=np.array(["a", "b", "c.png"]))
    examples = types.SimpleNamespace(index=np.array([2]))
    assert _names(experiment, "clean", examples).tolist() == ["c.png"]
