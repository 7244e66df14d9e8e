"""Programs that are compiled once: for the phases of a run, and for runs of one kind."""

import concurrent.futures
import subprocess
import sys
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_fits import ONE, PAPERS, QUIET, quick, toy

from reweight_jax import fit
from reweight_jax.methods import METHODS, Method
from reweight_jax.models import MODELS
from reweight_jax.models.mlp import MLP
from reweight_jax.tasks import TASKS
from reweight_jax.train import dispatch, programs
from reweight_jax.train.config import load_experiment
from reweight_jax.train.dispatch import step_of
from reweight_jax.train.phases import LR_SCHEDULES
from reweight_jax.train.programs import MOST_KEPT, Programs, kind_of
from reweight_jax.train.state import create_train_state

ALL_PHASES = {"warm_up": 1.0, "settle_at": 0.5, "judge_for": 0.3, "num_steps": 30}


@pytest.fixture
def traced(monkeypatch):
    """The methods of the training steps that are traced, with no program to begin with."""
    methods, step = [], dispatch.train_step

    def traced_step(*arguments, method, **options):
        methods.append(next(name for name, known in METHODS.items() if known is method))
        return step(*arguments, method=method, **options)

    monkeypatch.setattr(dispatch, "train_step", traced_step)
    monkeypatch.setattr(programs, "_kept", {})
    return methods


def data_of(seed):
    """The toy data with inputs of another mean and deviation, other labels and another order."""
    (x, y, _), (clean_x, clean_y) = toy()
    order = np.random.default_rng(seed).permutation(len(x))
    return ((3 * x + seed)[order], np.roll(y[order], seed)), (3 * clean_x + seed, clean_y)


def fit_of(seed, model=None, size=200, **fields):
    train, clean = data_of(seed)
    train = tuple(array[:size] for array in train)
    fields |= QUIET | {"model_fields": {"hidden": (8,)}, "learning_rate": 0.1}
    run = fit(model, train, clean=clean, devices=ONE, seed=seed, **fields)
    return run.result, run.examples, run.predict(train[0])


def test_another_run_of_a_kind_traces_nothing_and_gives_what_a_fresh_one_does(traced, monkeypatch):
    """Its data, their statistics and number, its seed and the sizes of its phases are its own."""
    fit_of(1, **ALL_PHASES)
    once = list(traced)
    assert once and set(once) <= {"baseline", "reweight", "clean_only"}
    second = fit_of(2, size=198, **ALL_PHASES)
    assert traced == once
    monkeypatch.setattr(programs, "_kept", {})
    fresh = fit_of(2, size=198, **ALL_PHASES)
    assert traced == 2 * once
    chex.assert_trees_all_equal(second[1:], fresh[1:])
    for name in ("labels", "last"):
        assert second[0][name] == fresh[0][name]
    assert not np.array_equal(second[2], fit_of(1, **ALL_PHASES)[2])


@pytest.mark.parametrize("learns_fast, settles", [(1.0, True), (-1.0, False)])
def test_the_phases_of_a_run_share_programs(traced, monkeypatch, learns_fast, settles):
    """Plain ones on sets of all sizes; those with the method, whether it settles or not."""
    monkeypatch.setattr("reweight_jax.train.selection.LEARNS_FAST", learns_fast)
    again = {"compare_plain": True, "retrain": "drop"}
    result, *_ = fit_of(1, MLP(2, (8,)), **ALL_PHASES | again)  # also of a model of the user's own
    assert result["settled"] == settles
    assert traced == ["baseline", "reweight"] + ([] if settles else ["clean_only"])


def test_a_function_of_the_user_is_read_in_every_run(traced):
    power = 0.0

    def weights(context):
        return power * jnp.ones_like(context.losses), context.method_state

    METHODS["mine"] = Method(weights=weights)
    LR_SCHEDULES["mine"] = lambda config: lambda count: 0.1 * power
    try:
        for fields in ({"method": "mine"}, {"method": "baseline", "lr_schedule": "mine"}):
            power = 0.0
            still = quick(**fields)
            power = 1.0
            moves = quick(**fields)
            spreads = [np.abs(run.predict(toy()[0][0])).std() for run in (still, moves)]
            assert spreads[0] != spreads[1]
    finally:
        del METHODS["mine"], LR_SCHEDULES["mine"]


def test_no_kind_has_anything_of_the_user(digits_config, monkeypatch):
    made = load_experiment(digits_config(), ONE)
    given = (made.facts, made.devices)
    assert kind_of(made.config, *given) == kind_of(digits_config(seed=3), *given)
    assert kind_of(made.config, *given, MLP(2, (8,))) is None
    before = kind_of(made.config, *given)
    with jax.default_prng_impl("rbg"):
        assert kind_of(made.config, *given) != before
    for table, field in ((METHODS, "method"), (LR_SCHEDULES, "lr_schedule"), (TASKS, "task")):
        with monkeypatch.context() as patch:
            patch.setitem(table, "mine", table[made.config[field]])
            assert kind_of(digits_config(**{field: "mine"}), *given) is None
            assert kind_of(made.config, *given)
    for table, name in ((MODELS, "mlp"), (METHODS, "clean_only"), (TASKS, "classification")):
        with monkeypatch.context() as patch:
            patch.setitem(table, name, lambda *arguments: None)  # in place of the built-in one
            assert kind_of(made.config, *given) is None


def test_what_is_entered_before_the_first_fit_is_of_the_user():
    """In a process of its own, in the order of docs/methods.md."""
    code = """
from reweight_jax.methods import METHODS
from reweight_jax.models import MODELS
from reweight_jax.tasks import TASKS
from reweight_jax.train.phases import LR_SCHEDULES
from reweight_jax.train.state import OPTIMIZERS
tables = {"method": METHODS, "model": MODELS, "task": TASKS}
tables |= {"lr_schedule": LR_SCHEDULES, "optimizer": OPTIMIZERS}
for table in tables.values():
    table["mine"] = next(iter(table.values()))
from reweight_jax.train import programs
assert programs._TABLES.keys() == tables.keys()
for name, table in tables.items():
    assert programs._TABLES[name][0] is table
    assert programs._TABLES[name][1].keys() == table.keys() - {"mine"}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_threads_make_a_program_once(monkeypatch):
    monkeypatch.setattr(programs, "_kept", {})
    made, begun = [], threading.Event()

    def make():
        begun.set()
        time.sleep(0.1)
        made.append(object())
        return made[-1]

    with concurrent.futures.ThreadPoolExecutor() as threads:
        first = threads.submit(Programs(("a",)).once, make, 0)
        begun.wait()
        second = threads.submit(Programs(("a",)).once, make, 0)
    assert made == [first.result()] == [second.result()]


def test_a_regression_is_compiled_again_for_other_labels(traced, monkeypatch):
    """Their mean and deviation are in its programs."""
    (x, y, _), (clean_x, clean_y) = toy()

    def prediction(scale, seed=0):
        fields = QUIET | PAPERS | {"task": "regression", "num_steps": 5, "seed": seed}
        clean = (clean_x, scale * clean_y)
        return fit(None, (x, scale * y), clean=clean, devices=ONE, **fields).predict(x)

    first = prediction(1.0)
    assert traced == ["reweight"]
    assert not np.array_equal(prediction(1.0, seed=1), first) and traced == ["reweight"]
    second = prediction(9.0)
    assert traced == 2 * ["reweight"]
    monkeypatch.setattr(programs, "_kept", {})
    np.testing.assert_array_equal(prediction(9.0), second)


OTHER = {
    "name": "other", "variant": "other", "seed": 7, "batch_size": 24, "clean_batch_size": 4,
    "labels.false_alarm_rate": 0.2, "labels.false_discovery_rate": 0.1, "warm_up": 1.0,
    "settle_at": 0.5, "finetune_from": "both", "finetune_steps": 4, "compare_plain": True,
    "retrain": "drop", "confusion_from": "elsewhere", "observe_alignment": True,
    "remember_megabytes": 0, "steps_per_dispatch": 2, "log_every_steps": 1, "eval_every_steps": 3,
    "checkpoint_every_steps": 3, "data.num_clean": 6, "data.noise": "uniform_flip",
    "data.num_train": 80, "data.clean_in_train": "always",
    "data.imbalance_ratio": 2.0, "data.resident": False,
}  # fmt: skip


def test_fields_outside_of_the_kind_change_no_program(digits_config):
    """The jaxpr of each phase's step, on the same shapes, and its constants."""
    base = load_experiment(digits_config(warm_up=0.5, settle_at=0.8), ONE)
    state = jax.eval_shape(lambda: create_train_state(base))
    inputs, label = base.splits.train.inputs[:12], base.splits.train.label[:12]
    rows = np.arange(12)
    batch = {"inputs": inputs, "label": label, "row": rows, "place": rows}

    def steps(experiment):
        found = {}
        for phase in experiment.phases():
            arguments = (state, batch, batch if phase.method.needs_clean else None)
            key = (id(phase.method), phase.schedule, phase.remembers)
            closed = jax.make_jaxpr(step_of(experiment, phase))(*arguments)
            found[key] = str(closed.jaxpr), list(map(np.asarray, closed.consts))
        return found

    assert {*programs._OUTSIDE} <= {*OTHER, "trial", "labels"}
    made = load_experiment(digits_config(**OTHER), ONE)
    assert kind_of(made.config, base.facts, ONE) == kind_of(base.config, base.facts, ONE)
    found, expected = steps(made), steps(base)
    assert len(found.keys() & expected.keys()) == 2
    for key in found.keys() & expected.keys():
        assert found[key][0] == expected[key][0]
        chex.assert_trees_all_equal(found[key][1], expected[key][1])


def test_a_bounded_number_is_kept(monkeypatch):
    monkeypatch.setattr(programs, "_kept", {})
    made = []

    def once(kind, key):
        return Programs(kind).once(lambda: made.append(key) or object(), key)

    first = [once(("a",), key) for key in range(MOST_KEPT)]
    assert once(("a",), 0) is first[0]  # and is now the last one used
    once(("b",), 0)
    assert len(programs._kept) == MOST_KEPT
    assert once(("a",), 0) is first[0] and once(("a",), 1) is not first[1]
    assert made == [*range(MOST_KEPT), 0, 1]
    own = Programs()  # of a run without a kind
    assert own.once(object, 0) is own.once(object, 0) is not Programs().once(object, 0)
    assert len(programs._kept) == MOST_KEPT
