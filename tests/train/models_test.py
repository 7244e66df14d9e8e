"""The model of a run: weight decay by the size of the training set, and what is the user's own."""

import flax.linen as nn
import numpy as np
import pytest

from reweight_jax.configs import default, own_data
from reweight_jax.data.examples import Examples
from reweight_jax.models import BUILT_IN, MODELS
from reweight_jax.train.models import DECAY, is_own, with_decay


@pytest.mark.parametrize(
    ("num_train", "expected"),
    [(80, DECAY / 80), (3_999, DECAY / 3_999), (4_000, 0.0), (50_000, 0.0)],
)
def test_small_sets_get_a_weight_decay(num_train, expected):
    config = own_data.get_config()  # 2,000 steps of 100

    def decay(*shape, dtype=np.float32, model=None):
        rows = np.zeros(num_train, np.int32)
        train = Examples(np.zeros((num_train, *shape), dtype), rows, rows, None)
        return with_decay(config, train, model).weight_decay

    assert decay(3) == decay(3, dtype=np.uint8) == expected
    assert config.weight_decay == -1 and config.is_locked
    assert decay(3, model=nn.Dense(2)) == decay(3, dtype=np.int32) == decay(4, 4, 1) == 0
    config.model.name = "mlp"
    assert decay(4, 4, 1) == expected
    config.weight_decay = 0.3
    assert decay(3) == 0.3


def test_what_is_the_users_own(monkeypatch):
    config = default.get_config()
    assert not is_own(config, None) and is_own(config, nn.Dense(2))
    for name in ("auto", *BUILT_IN):
        config.model.name = name
        assert not is_own(config, None)
    config.model.name = "mine"
    monkeypatch.setitem(MODELS, "mine", lambda *_: nn.Dense(2))
    assert is_own(config, None)
    config.model.name = "mlp"
    monkeypatch.setitem(MODELS, "mlp", lambda *_: nn.Dense(2))
    assert is_own(config, None)


def test_the_paper_has_no_other_decay():
    assert default.get_config().weight_decay == 0
