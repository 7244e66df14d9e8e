"""Batches against devices: what cannot be split, and what a TPU pads."""

import types

import jax
import numpy as np
import pytest

from reweight_jax.data.examples import Examples, Splits
from reweight_jax.errors import UserError
from reweight_jax.models import scale_inputs
from reweight_jax.train.checks import advice, memory_suffices, remarks_of

CHIPS = [types.SimpleNamespace(platform="tpu")] * 4


def config(batch_size):
    fields = {"batch_size": batch_size, "model": types.SimpleNamespace(name="auto")}
    return types.SimpleNamespace(**fields)


def examples(*shape):
    label = np.zeros(8, np.int32)
    return Examples(np.zeros((8, *shape), np.uint8), label, label, label)


def told_of(batch_size, train, devices):
    parts = {"config": config(batch_size), "sample": scale_inputs(train.inputs[:1])}
    parts["devices"] = devices
    return advice(types.SimpleNamespace(**parts))


def test_remarks_name_rows_by_their_ids():
    train, clean = (examples(4)._replace(index=np.arange(8) + 8 * k) for k in (0, 1))
    train.inputs[:], clean.inputs[:] = np.arange(8)[:, None], np.arange(8, 16)[:, None]
    clean.inputs[0], clean = 3, clean._replace(label=np.ones(8, np.int32))
    parts = {"splits": Splits(train, clean), "classes": ("a", "b")}
    parts["ids"] = np.array([f"{row}.png" for row in range(16)])
    *_, told = remarks_of(types.SimpleNamespace(**parts))
    assert "1 of 8 clean examples" in told and "(there: id 3.png)" in told


def test_a_batch_that_a_tpu_pads_is_told():
    images = examples(4, 4, 3)
    (told,) = told_of(100, images, CHIPS)
    assert "25 examples of each chip to 128, so a batch of 512" in told
    assert told_of(512, images, CHIPS) == []
    assert told_of(100, images, jax.devices()) == []
    assert told_of(100, examples(3), CHIPS) == []


def test_whole_numbers_that_a_transformer_takes_are_told():
    counts = examples(3)._replace(inputs=np.zeros((8, 3), np.int32))
    (told,) = told_of(4, counts, jax.devices())
    assert "a transformer" in told and "give them as floats" in told


def test_a_device_without_enough_memory_is_told_what_would_help():
    too_much = jax.jit(lambda: jax.numpy.ones((2**20, 2**20), np.float32))  # 4 TiB
    with (
        pytest.raises(UserError, match=r"out of memory .* config.batch_size below 18, or with"),
        memory_suffices(config(18)),
    ):
        too_much()
