"""Batches against devices: what cannot be split, and what a TPU pads."""

import types

import jax
import numpy as np
import pytest

from reweight_jax.data.examples import Examples, Splits
from reweight_jax.errors import UserError
from reweight_jax.train.checks import advice, check_batch, memory_suffices

CHIPS = [types.SimpleNamespace(platform="tpu")] * 4


def config(batch_size):
    return types.SimpleNamespace(batch_size=batch_size)


def examples(*shape):
    label = np.zeros(8, np.int32)
    return Examples(np.zeros((8, *shape), np.uint8), label, label, label)


def told_of(batch_size, train, devices):
    parts = {
        "config": config(batch_size),
        "splits": Splits(train),
        "classes": (),
        "ids": None,
        "devices": devices,
    }
    return advice(types.SimpleNamespace(**parts))


def test_batch_must_divide_by_the_devices():
    with pytest.raises(UserError, match=r"config.batch_size: 18 must be divisible by the 4 dev"):
        check_batch(config(18), jax.devices())


def test_a_batch_that_a_tpu_pads_is_told():
    images = examples(4, 4, 3)
    (told,) = told_of(100, images, CHIPS)
    assert "25 examples of each chip to 128, so a batch of 512" in told
    assert told_of(512, images, CHIPS) == []
    assert told_of(100, images, jax.devices()) == []
    assert told_of(100, examples(3), CHIPS) == []


def test_a_device_without_enough_memory_is_told_what_would_help():
    too_much = jax.jit(lambda: jax.numpy.ones((2**20, 2**20), np.float32))  # 4 TiB
    with (
        pytest.raises(UserError, match=r"out of memory .* config.batch_size below 18, or with"),
        memory_suffices(config(18)),
    ):
        too_much()
