"""The training step of every method: one device or four, one dispatch or several, one trace."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from small_models import NUM_CLASSES, ResidualNet

from reweight_jax.data.batches import batch_rows, shuffled
from reweight_jax.data.splits import Examples
from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS
from reweight_jax.models.dropout import Dropout
from reweight_jax.reweight import normalize_weights
from reweight_jax.train import devices as parallel
from reweight_jax.train.state import create_optimizer, create_train_state
from reweight_jax.train.step import augmentation, train_step

CONFIG = ConfigDict({"momentum": 0.9, "weight_decay": 1e-3})
CONFIG.clean_gradient_every, CONFIG.epsilon_params = 1, ""
CONFIG.num_steps, CONFIG.mentor_percentile, CONFIG.confusion_from = 4, 70.0, ""
SCHEDULE = optax.constant_schedule(0.1)
AUGMENT = augmentation(1, True)
STEPS = [(name, "jvp") for name in METHODS] + [("reweight", "lookahead")]


def examples(size, seed):
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(size) % NUM_CLASSES).astype(np.int32)
    image = rng.integers(0, 128, (size, 6, 6, 2)) + 60 * label[:, None, None, None]
    return Examples(image.astype(np.uint8), label, label, np.arange(size))


TRAIN, CLEAN = examples(60, 0), examples(12, 1)


def make(name, epsilon_method, devices, dropout_rate=0.0, every=1, max_traces=None):
    """Returns (state, run, method) for `name` on a network with BatchNorm."""
    method = METHODS[name]
    axis_name = parallel.axis_name(devices)
    model = ResidualNet(dropout_rate, axis_name)
    tx = create_optimizer(CONFIG, SCHEDULE)
    config = ConfigDict({**CONFIG, "clean_gradient_every": every})
    state = create_train_state(jax.random.key(0), model, tx, method, config, TRAIN, NUM_CLASSES)
    step = functools.partial(
        chex.assert_max_traces(train_step, max_traces) if max_traces else train_step,
        model=model,
        method=method,
        tx=tx,
        epsilon_method=epsilon_method,
        augment=AUGMENT,
        axis_name=axis_name,
    )
    clean = CLEAN if method.needs_clean else None
    run = parallel.compile_train_steps(step, TRAIN, clean, devices)
    return parallel.place_state(state, devices), run, method


def train(name, epsilon_method, devices, dispatches=(2, 1), num_clean=8, every=1, **settings):
    """Runs steps in dispatches of the given sizes; returns the state and the metrics [steps]."""
    state, run, method = make(name, epsilon_method, devices, every=every, **settings)
    collected, first = [], 0
    for size in dispatches:
        rows = batch_rows(method.sampler(TRAIN.label, 0), first, size, 16)
        clean_rows = None
        if method.needs_clean:
            clean_rows = batch_rows(shuffled(CLEAN.label, 0), first, size, num_clean)
        fresh = tuple(i % every == 0 for i in range(first, first + size)) if every > 1 else None
        state, metrics = run(state, rows, clean_rows, fresh=fresh)
        collected.append(jax.device_get(metrics))
        first += size
    return jax.device_get(state.replace(key=jax.random.key_data(state.key))), jax.tree.map(
        lambda *parts: np.concatenate(parts), *collected
    )


@pytest.mark.parametrize("name, epsilon_method", STEPS)
def test_four_devices_are_one(name, epsilon_method, short_mentor, confusion_run):
    CONFIG.confusion_from = confusion_run(NUM_CLASSES)
    devices = jax.devices()
    assert len(devices) == 4
    one = train(name, epsilon_method, devices[:1])
    four = train(name, epsilon_method, devices)
    chex.assert_trees_all_close(four, one, rtol=2e-4, atol=2e-6)
    # It trained: weights of two epochs' worth of rows were written, and the statistics moved.
    state, metrics = one
    assert np.isfinite(state.history.mean_alignment).any() == METHODS[name].needs_clean
    weighed = (state.history.visits > 0).sum()
    assert weighed == 0 if name == "clean_only" else weighed >= 16
    assert np.abs(state.model_state["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0
    np.testing.assert_allclose(metrics["class_mass"].sum(-1), 1, rtol=1e-5)


def test_four_devices_drop_out_what_one_does():
    def logits(devices):
        model = Dropout(0.3, parallel.axis_name(devices))
        x = jnp.ones((8, 5))

        def apply(x):
            return model.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})

        if len(devices) == 1:
            return apply(x)
        return jax.pmap(apply, parallel.AXIS)(x.reshape(4, 2, 5)).reshape(8, 5)

    one = logits(jax.devices()[:1])
    chex.assert_trees_all_equal(logits(jax.devices()), one)
    assert len(np.unique(one, axis=0)) == 8  # each example has a mask of its own
    assert set(np.unique(one)) == {0.0, np.float32(1 / 0.7)}
    trained = [train("reweight", "jvp", jax.devices()[:k], dropout_rate=0.3) for k in (1, 4)]
    chex.assert_trees_all_close(*trained, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("num_clean", [6, 12])
def test_a_clean_batch_that_four_devices_cannot_share_is_copied(num_clean):
    one = train("reweight", "jvp", jax.devices()[:1], num_clean=num_clean)
    four = train("reweight", "jvp", jax.devices(), num_clean=num_clean)
    chex.assert_trees_all_close(four, one, rtol=2e-4, atol=2e-6)


def test_lookahead_and_jvp_train_alike_with_dropout():
    lookahead = train("reweight", "lookahead", jax.devices()[:1], dropout_rate=0.3)
    jvp = train("reweight", "jvp", jax.devices()[:1], dropout_rate=0.3)
    chex.assert_trees_all_close(jvp, lookahead, rtol=2e-4, atol=2e-6)
    without = train("reweight", "jvp", jax.devices()[:1])
    assert not np.allclose(without[1]["plain_loss"], jvp[1]["plain_loss"])


@pytest.mark.parametrize("num_devices", [1, 4])
def test_steps_per_dispatch_change_nothing(num_devices):
    devices = jax.devices()[:num_devices]
    chex.assert_trees_all_close(
        train("reweight", "jvp", devices, (1, 1, 1, 1)),
        train("reweight", "jvp", devices, (4,)),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize("num_devices, every", [(1, 1), (1, 3), (4, 3)])
def test_the_loop_of_an_accelerator_is_the_unrolled_one_of_a_cpu(monkeypatch, num_devices, every):
    arguments = ("reweight", "jvp", jax.devices()[:num_devices], (4, 4))
    unrolled = train(*arguments, every=every)
    monkeypatch.setattr(parallel, "_is_cpu", lambda device: False)
    chex.clear_trace_counter()
    scanned = train(*arguments, every=every, max_traces=1)
    chex.assert_trees_all_close(scanned, unrolled, rtol=2e-4, atol=2e-6)
    exact, approximate = (train(*arguments, every=k)[1]["loss"] for k in (1, every))
    assert approximate[0] == exact[0]  # the first step's clean gradient is new either way
    assert (every == 1) == (approximate[1] == exact[1])


def bare_step(method, model, tx):
    """A train_step on one device, without augmentation."""
    return functools.partial(
        train_step,
        model=model,
        method=method,
        tx=tx,
        epsilon_method="jvp",
        augment=augmentation(0, False),
    )


def test_one_trace_and_a_donated_state():
    method = METHODS["reweight"]
    model, tx = ResidualNet(), create_optimizer(CONFIG, SCHEDULE)
    state = create_train_state(jax.random.key(0), model, tx, method, CONFIG, TRAIN, NUM_CLASSES)
    step = bare_step(method, model, tx)
    counted = chex.assert_max_traces(n=1)(lambda *arguments, fresh: step(*arguments, fresh=fresh))
    run = parallel.compile_train_steps(counted, TRAIN, CLEAN, jax.devices()[:1])
    state = parallel.place_state(state, jax.devices()[:1])
    before = state.params
    for first in range(5):
        rows = batch_rows(shuffled(TRAIN.label, 0), first, 1, 16)
        state, _ = run(state, rows, rows[:, :4] % 12)
    assert int(state.step) == 5
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


def test_metrics_by_hand():
    """PROPORTION's weights are known, so every metric of them can be worked out in numpy."""
    state, _, method = make("proportion", "jvp", jax.devices()[:1])
    model, tx = ResidualNet(), create_optimizer(CONFIG, SCHEDULE)
    rows = np.arange(16, dtype=np.int32)
    batch = {"image": TRAIN.image[rows], "label": TRAIN.label[rows], "row": rows}
    batch["place"] = rows
    new_state, metrics = jax.jit(bare_step(method, model, tx))(state, batch, None)
    variables = {"params": state.params["model"], **state.model_state}
    logits, _ = model.apply(
        variables, TRAIN.image[rows] / np.float32(255), train=True, mutable=["batch_stats"]
    )
    losses = -np.asarray(jax.nn.log_softmax(logits))[rows, TRAIN.label[rows]]
    weights = 1 / np.bincount(TRAIN.label)[TRAIN.label[rows]]
    weights = weights / weights.sum()
    expected = {
        "loss": np.sum(weights * losses),
        "plain_loss": losses.mean(),
        "error": np.mean(np.argmax(logits, -1) != TRAIN.label[rows]),
        "zero_weights": 0.0,
        "effective_sample_size": 1 / np.sum(weights**2),
        "class_mass": np.bincount(TRAIN.label[rows], weights),
        "no_helpful": 0.0,
    }
    chex.assert_trees_all_close(metrics, jax.tree.map(np.float32, expected), rtol=1e-5)
    np.testing.assert_allclose(new_state.history.last_weight[:16], 16 * weights, rtol=1e-5)
    assert np.isnan(new_state.history.last_weight[16:]).all()


def test_the_alignment_rectified_is_the_weight():
    method = METHODS["reweight"]
    model, tx = ResidualNet(), create_optimizer(CONFIG, SCHEDULE)
    state = create_train_state(jax.random.key(0), model, tx, method, CONFIG, TRAIN, NUM_CLASSES)
    rows = np.arange(16, dtype=np.int32)
    batch = {"image": TRAIN.image[rows], "label": TRAIN.label[rows], "row": rows, "place": rows}
    clean = {"image": CLEAN.image, "label": CLEAN.label, "row": rows[:12], "place": rows[:12]}
    state, _ = jax.jit(bare_step(method, model, tx))(state, batch, clean)
    history = jax.device_get(state.history)
    assert np.isnan(history.mean_alignment[16:]).all()
    seen = history.mean_alignment[:16]
    assert seen.min() < 0 < seen.max()
    np.testing.assert_allclose(np.abs(seen).mean(), 1, rtol=1e-5)
    positive = np.maximum(seen, 0)
    expected = 16 * positive / positive.sum()
    np.testing.assert_allclose(history.last_weight[:16], expected, rtol=1e-4, atol=1e-6)


def test_a_method_may_use_the_gradient_under_a_condition():
    """Plain training for one step, and reweighting from then on."""

    def warm(context):
        uniform = jnp.full_like(context.losses, 1 / len(context.losses))
        weights = jax.lax.cond(
            context.step < 1, lambda: uniform, lambda: normalize_weights(context.epsilon_gradient)
        )
        return weights, context.method_state

    method = METHODS["reweight"]._replace(weights=warm)
    model, tx = ResidualNet(), create_optimizer(CONFIG, SCHEDULE)
    state = create_train_state(jax.random.key(0), model, tx, method, CONFIG, TRAIN, NUM_CLASSES)
    rows = np.arange(16, dtype=np.int32)
    batch = {"image": TRAIN.image[rows], "label": TRAIN.label[rows], "row": rows, "place": rows}
    clean = {"image": CLEAN.image, "label": CLEAN.label, "row": rows[:12], "place": rows[:12]}
    step = jax.jit(bare_step(method, model, tx))
    state, _ = step(state, batch, clean)
    np.testing.assert_allclose(state.history.last_weight[:16], 1, rtol=1e-6)
    state, metrics = step(state, batch, clean)
    assert metrics["zero_weights"] > 0


def test_no_helpful_example_takes_no_step_on_the_loss():
    """A clean set that wants the opposite of every training label."""
    train_set = TRAIN._replace(label=np.zeros(60, np.int32))
    method = METHODS["reweight"]
    model, tx = ResidualNet(), create_optimizer(CONFIG, SCHEDULE)
    state = create_train_state(jax.random.key(0), model, tx, method, CONFIG, train_set, NUM_CLASSES)
    state = state.replace(opt_state=tx.init(state.params))
    image = np.repeat(TRAIN.image[:1], 8, axis=0)
    batch = {"image": image, "label": np.zeros(8, np.int32), "row": np.arange(8, dtype=np.int32)}
    batch["place"] = batch["row"]
    clean = batch | {"label": np.ones(8, np.int32)}
    step = bare_step(method, model, tx)
    new_state, metrics = jax.jit(step)(state, batch, clean)
    assert float(metrics["no_helpful"]) == 1 and float(metrics["zero_weights"]) == 1
    assert float(metrics["loss"]) == 0 and float(metrics["effective_sample_size"]) == 0
    chex.assert_tree_all_finite((new_state.params, metrics))
    # What moves is the weight decay on kernels, and nothing else.
    expected = jax.tree_util.tree_map_with_path(
        lambda path, p: p * (1 - 0.1 * 1e-3) if path[-1].key == "kernel" else p, state.params
    )
    chex.assert_trees_all_close(new_state.params, expected, rtol=1e-6)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_predict_pads_what_does_not_divide(num_devices):
    state, _, _ = make("baseline", "jvp", jax.devices()[:1])
    predict = parallel.compile_predict(ResidualNet(), 25, jax.devices()[:num_devices])
    logits = predict(state.params["model"], state.model_state, TRAIN.image)
    expected = ResidualNet().apply(
        {"params": state.params["model"], **state.model_state},
        jnp.asarray(TRAIN.image, jnp.float32) / 255,
        train=False,
    )
    chex.assert_shape(logits, (60, NUM_CLASSES))
    chex.assert_trees_all_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_steps_per_dispatch():
    cpu = jax.devices()
    assert parallel.steps_per_dispatch(0, cpu, 100, 50) == 1
    assert parallel.steps_per_dispatch(10, cpu, 100, 50) == 10
    for wanted in (20, -1):
        with pytest.raises(UserError, match=f"config.steps_per_dispatch: {wanted} must divide"):
            parallel.steps_per_dispatch(wanted, cpu, 100, 50)


def test_steps_per_dispatch_of_an_accelerator():
    gpu = [types.SimpleNamespace(platform="gpu")]
    assert parallel.steps_per_dispatch(0, gpu, 0, 8000, 100) == 25
    assert parallel.steps_per_dispatch(0, gpu, 0, 14, 7) == 7
    # Resumed from step 210, a multiple of no more than 10 with the rest.
    assert parallel.steps_per_dispatch(0, gpu, 210, 1000, 100) == 10


def test_batch_must_divide_by_the_devices():
    with pytest.raises(UserError, match=r"config.batch_size: 18 must be divisible by the 4 dev"):
        parallel.check_divisible(18, jax.devices())
