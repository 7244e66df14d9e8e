"""The training step of every method: one device or four, one dispatch or several, one trace."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from as_compiled import as_compiled
from small_models import NUM_CLASSES, ResidualNet

from reweight_jax.configs import default
from reweight_jax.data.batches import batch_rows, shuffled
from reweight_jax.data.examples import Data, Examples, Splits
from reweight_jax.history import history_means
from reweight_jax.methods import METHODS
from reweight_jax.reweight import normalize_weights
from reweight_jax.train import devices as on_devices
from reweight_jax.train.config import make_experiment
from reweight_jax.train.evaluate import compile_predict
from reweight_jax.train.phases import SCHEDULES
from reweight_jax.train.programs import Programs
from reweight_jax.train.state import create_optimizer, create_train_state
from reweight_jax.train.step import train_step

# Methods that differ in what they do with the whole batch; the others are slow tests.
OWN_PATHS = ("hard_mining", "reweight")
STEPS = [
    pytest.param(name, "jvp", marks=() if name in OWN_PATHS else pytest.mark.slow)
    for name in METHODS
] + [pytest.param("reweight", "lookahead", marks=pytest.mark.slow)]


def examples(size, seed):
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(size) % NUM_CLASSES).astype(np.int32)
    image = rng.integers(0, 128, (size, 6, 6, 2)) + 60 * label[:, None, None, None]
    return Examples(image.astype(np.uint8), label, label, np.arange(size))


TRAIN, CLEAN = examples(60, 0), examples(12, 1)


def experiment(method, devices=None, dropout_rate=0.0, train=TRAIN, **fields):
    """An experiment on a network with BatchNorm, crops and flips."""
    config = default.get_config()
    config.method, config.batch_size, config.num_steps = method, 16, 4
    config.learning_rate, config.weight_decay = 0.1, 1e-3
    config.data.crop_padding, config.data.flip = 1, True
    config.data.clean_in_train = "never"
    config.update_from_flattened_dict(fields)
    data = Data(Splits(train, CLEAN), tuple(range(NUM_CLASSES)), NUM_CLASSES)
    return make_experiment(config, data, ResidualNet(dropout_rate), devices or jax.devices()[:1])


def initial(made, host_input=None):
    return on_devices.place_state(create_train_state(made, host_input), made.devices)


def bound_step(made, **changes):
    """`train_step` with all that the experiment fixes."""
    keywords = {
        "model": made.model,
        "task": made.task,
        "method": made.method,
        "tx": create_optimizer(made.config, SCHEDULES["training"](made.config)),
        "epsilon_method": made.config.epsilon_method,
        "epsilon_over": made.config.epsilon_over,
        "augment": made.augment,
        "axis_name": on_devices.axis_name(made.devices),
    }
    return functools.partial(train_step, **keywords | changes)


def counted(step):
    """`step`, which may be traced once."""
    chex.clear_trace_counter()
    return chex.assert_max_traces(lambda *arguments: step(*arguments), n=1)


def bind_data(step, clean, devices, **options):
    program = on_devices.steps_program(step, devices)
    return on_devices.bind_data(program, TRAIN, clean, devices, **options)


def train(made, dispatches=(1, 1, 1), num_clean=8, step=None, host_input=None):
    """Runs steps in dispatches of the given sizes; returns the state and the metrics [steps]."""
    method, state = made.method, initial(made, host_input)
    clean = CLEAN if method.needs_clean else None
    run = bind_data(step or bound_step(made), clean, made.devices)
    collected, first = [], 0
    for size in dispatches:
        rows = batch_rows(method.sampler(TRAIN.label, 0), first, size, 16)
        clean_rows = None
        if method.needs_clean:
            clean_rows = batch_rows(shuffled(CLEAN.label, 0), first, size, num_clean)
        state, metrics = run(state, rows, clean_rows)
        collected.append(jax.device_get(metrics))
        first += size
    return jax.device_get(state), jax.tree.map(lambda *parts: np.concatenate(parts), *collected)


def batch_of(examples, rows):
    rows = np.asarray(rows, np.int32)
    place = np.arange(len(rows))
    label = examples.label[rows]
    return {"inputs": examples.inputs[rows], "label": label, "row": rows, "place": place}


@pytest.mark.parametrize("name, epsilon_method", STEPS)
def test_four_devices_are_one(name, epsilon_method, short_mentor, confusion_run):
    """With BatchNorm over the devices, and dropout's mask that of one."""
    fields = {"epsilon_method": epsilon_method, "confusion_from": confusion_run(NUM_CLASSES)}
    assert len(jax.devices()) == 4
    one, four = (experiment(name, jax.devices()[:k], 0.3, **fields) for k in (1, 4))
    host_input = one.method.host_input and one.method.host_input(one.config)
    one, four = (train(made, host_input=host_input) for made in (one, four))
    chex.assert_trees_all_close(four, one, rtol=2e-4, atol=2e-6)
    # It trained: visits of three batches were counted, and the statistics moved.
    state, metrics = one
    assert ("alignment" in state.history.sums) == METHODS[name].needs_clean
    assert state.history.visits.sum() == (0 if name == "clean_only" else 3 * 16)
    assert np.abs(state.model_state["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0
    np.testing.assert_allclose(metrics["class_mass"].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("num_clean", [6, pytest.param(12, marks=pytest.mark.slow)])
def test_a_clean_batch_that_four_devices_cannot_share_is_copied(num_clean):
    one, four = (
        train(experiment("reweight", jax.devices()[:k]), num_clean=num_clean) for k in (1, 4)
    )
    chex.assert_trees_all_close(four, one, rtol=2e-4, atol=2e-6)


def test_lookahead_and_jvp_train_alike_with_dropout():
    lookahead, jvp = (
        train(experiment("reweight", None, 0.3, epsilon_method=method))
        for method in ("lookahead", "jvp")
    )
    chex.assert_trees_all_close(jvp, lookahead, rtol=2e-4, atol=2e-6)
    without = train(experiment("reweight"))
    assert not np.allclose(without[1]["plain_loss"], jvp[1]["plain_loss"])


@functools.cache
def unrolled(num_devices):
    """Four steps of reweighting in two dispatches."""
    return train(experiment("reweight", jax.devices()[:num_devices]), (2, 2))


@pytest.mark.parametrize("num_devices", [pytest.param(1, marks=[pytest.mark.slow, as_compiled]), 4])
def test_steps_per_dispatch_change_nothing(num_devices):
    single = train(experiment("reweight", jax.devices()[:num_devices]), (1, 1, 1, 1))
    chex.assert_trees_all_close(single, unrolled(num_devices), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_the_loop_of_an_accelerator_is_the_unrolled_one_of_a_cpu(monkeypatch, num_devices):
    expected = unrolled(num_devices)
    monkeypatch.setattr(on_devices, "on_cpu", lambda devices: False)
    made = experiment("reweight", jax.devices()[:num_devices])
    scanned = train(made, (2, 2), step=counted(bound_step(made)))
    chex.assert_trees_all_close(scanned, expected, rtol=2e-4, atol=2e-6)


def test_one_trace_and_a_donated_state():
    made = experiment("reweight")
    run = bind_data(counted(bound_step(made)), CLEAN, made.devices)
    state = initial(made)
    before = state.params
    for first in range(5):
        rows = batch_rows(shuffled(TRAIN.label, 0), first, 1, 16)
        state, _ = run(state, rows, rows[:, :4] % 12)
    assert int(state.step) == 5
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


@pytest.mark.slow
def test_inputs_that_are_not_resident_are_taken_as_given():
    """Streamed to four devices, each dispatch ahead of its use, against the resident set."""
    made = experiment("baseline", jax.devices())
    expected = train(made, (2, 1))
    run = bind_data(bound_step(made), None, made.devices, resident=False)
    state, dispatches = initial(made), [(0, 2), (2, 1)]
    rows = [batch_rows(shuffled(TRAIN.label, 0), first, k, 16) for first, k in dispatches]
    inputs = on_devices.put_ahead((TRAIN.inputs[part] for part in rows), made.devices)
    for part, given in zip(rows, inputs, strict=True):
        state, _ = run(state, part, None, given)
    chex.assert_trees_all_close(jax.device_get(state), expected[0], rtol=1e-5, atol=1e-7)
    assert list(on_devices.put_ahead(iter([]), made.devices)) == []


def test_metrics_by_hand():
    """PROPORTION's weights are known, so every metric of them can be worked out in numpy."""
    made = experiment("proportion", **{"data.crop_padding": 0, "data.flip": False})
    state = initial(made)
    rows = np.arange(16)
    new_state, metrics = jax.jit(bound_step(made))(state, batch_of(TRAIN, rows), None)
    variables = {"params": state.params["model"], **state.model_state}
    logits, _ = ResidualNet().apply(
        variables, TRAIN.inputs[rows] / np.float32(255), train=True, mutable=["batch_stats"]
    )
    log_p, label = np.asarray(jax.nn.log_softmax(logits)), TRAIN.label[rows]
    losses = -log_p[rows, label]
    weights = 1 / np.bincount(TRAIN.label)[label]
    weights = weights / weights.sum()
    expected = {
        "loss": np.sum(weights * losses),
        "plain_loss": losses.mean(),
        "error": np.mean(np.argmax(logits, -1) != label),
        "zero_weights": 0.0,
        "effective_sample_size": 1 / np.sum(weights**2),
        "class_mass": np.bincount(label, weights),
        "no_helpful": 0.0,
    }
    chex.assert_trees_all_close(metrics, jax.tree.map(np.float32, expected), rtol=1e-5)
    means = history_means(new_state.history)
    np.testing.assert_allclose(means["weight"][:16], 16 * weights, rtol=1e-5)
    others = np.where(np.arange(NUM_CLASSES) == label[:, None], -np.inf, log_p)
    np.testing.assert_allclose(
        means["margin"][:16], log_p[rows, label] - others.max(1), rtol=1e-4, atol=1e-5
    )
    assert np.isnan(means["weight"][16:]).all()


def test_the_alignment_rectified_is_the_weight():
    made = experiment("reweight")
    clean = batch_of(CLEAN, np.arange(12))
    state, _ = jax.jit(bound_step(made))(initial(made), batch_of(TRAIN, np.arange(16)), clean)
    means = history_means(state.history)
    assert np.isnan(means["alignment"][16:]).all()
    seen = means["alignment"][:16]
    assert seen.min() < 0 < seen.max()
    np.testing.assert_allclose(np.abs(seen).mean(), 1, rtol=1e-5)
    positive = np.maximum(seen, 0)
    expected = 16 * positive / positive.sum()
    np.testing.assert_allclose(means["weight"][:16], expected, rtol=1e-4, atol=1e-6)


def test_a_method_may_use_the_gradient_under_a_condition():
    """Plain training for one step, and reweighting from then on."""

    def warm(context):
        uniform = jnp.full_like(context.losses, 1 / len(context.losses))
        weights = jax.lax.cond(
            context.step < 1, lambda: uniform, lambda: normalize_weights(context.epsilon_gradient)
        )
        return weights, context.method_state

    made = experiment("reweight")
    step = jax.jit(bound_step(made, method=METHODS["reweight"]._replace(weights=warm)))
    batch, clean = batch_of(TRAIN, np.arange(16)), batch_of(CLEAN, np.arange(12))
    state, _ = step(initial(made), batch, clean)
    np.testing.assert_allclose(state.history.sums["weight"][:16], 1, rtol=1e-6)
    state, metrics = step(state, batch, clean)
    assert metrics["zero_weights"] > 0


def test_no_helpful_example_takes_no_step_on_the_loss():
    """A clean set that wants the opposite of every training label."""
    made = experiment("reweight", **{"data.crop_padding": 0, "data.flip": False})
    state = initial(made)
    batch = batch_of(TRAIN, [0] * 8) | {"label": np.zeros(8, np.int32)}
    clean = batch | {"label": np.ones(8, np.int32)}
    new_state, metrics = jax.jit(bound_step(made))(state, batch, clean)
    assert float(metrics["no_helpful"]) == 1 and float(metrics["zero_weights"]) == 1
    assert float(metrics["loss"]) == 0 and float(metrics["effective_sample_size"]) == 0
    chex.assert_tree_all_finite((new_state.params, metrics))
    # What moves is the weight decay on kernels, and nothing else.
    expected = jax.tree_util.tree_map_with_path(
        lambda path, p: p * (1 - 0.1 * 1e-3) if path[-1].key == "kernel" else p, state.params
    )
    chex.assert_trees_all_close(new_state.params, expected, rtol=1e-6)


@pytest.mark.parametrize("pattern, names", [("Dense_0/(k|b)", "Dense_0"), ("Conv_", "Conv")])
def test_weights_over_some_of_the_parameters(pattern, names):
    """Against the weights whose gradients of all other parameters are set to zero by hand."""
    fields = {"data.crop_padding": 0, "data.flip": False}
    made = experiment("reweight", epsilon_over=f"^model/{pattern}", **fields)
    state, batch, clean = initial(made), batch_of(TRAIN, range(16)), batch_of(CLEAN, range(12))
    new_state, _ = jax.jit(bound_step(made))(state, batch, clean)

    def losses(params, examples):
        variables = {"params": params, **state.model_state}
        inputs = examples["inputs"].astype(np.float32) / 255
        logits, _ = ResidualNet().apply(variables, inputs, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, examples["label"])

    params = state.params["model"]
    gradient = jax.jit(jax.grad(lambda params: losses(params, clean).mean()))
    jacobian = jax.device_get(jax.jit(jax.jacrev(losses))(params, batch))
    clean_gradient = jax.device_get(gradient(params))
    products = sum(
        jacobian[name][leaf].reshape(16, -1) @ clean_gradient[name][leaf].ravel()
        for name in params
        if names in name
        for leaf in params[name]
    )
    expected = 16 * normalize_weights(-products)
    got = new_state.history.sums["weight"][:16]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    exact, _ = jax.jit(bound_step(experiment("reweight", **fields)))(state, batch, clean)
    assert np.abs(exact.history.sums["weight"][:16] - got).max() > 1e-2


@pytest.mark.parametrize("num_devices", [1, 4])
def test_predict_pads_what_does_not_divide(num_devices):
    made = experiment("baseline")
    state = create_train_state(made)
    predict = compile_predict(made.model, jax.devices()[:num_devices], Programs())
    logits = predict(state.params["model"], state.model_state, TRAIN.inputs, batch_size=25)
    expected = ResidualNet().apply(
        {"params": state.params["model"], **state.model_state},
        jnp.asarray(TRAIN.inputs, jnp.float32) / 255,
        train=False,
    )
    chex.assert_shape(logits, (60, NUM_CLASSES))
    chex.assert_trees_all_close(logits, expected, rtol=1e-5, atol=1e-5)
