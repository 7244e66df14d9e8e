"""Several hosts: two processes of two devices do what one process with one device does."""

import faulthandler
import importlib.util
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import flags_of_two, start, wait_for
from whole_runs import saved, without_times, write_digits

from reweight_jax.errors import UserError
from reweight_jax.history import add_visits, empty_history
from reweight_jax.records.metrics import read_metrics
from reweight_jax.sealed import read_sealed
from reweight_jax.train import devices as on_devices
from reweight_jax.train import hosts
from reweight_jax.train.checkpoints import Checkpoints
from reweight_jax.train.state import TrainState

# BatchNorm and the clean batch go over all four devices, and flips by an example's place in the
# batch; the last five steps are after a fall of the learning rate.
COMMAND = [
    *("-m", "reweight_jax.main", "--config=configs/cifar_background_flip.py:digits"),
    *("--config.num_steps=20", "--config.batch_size=48", "--config.clean_batch_size=20"),
    *("--config.log_every_steps=1", "--config.eval_every_steps=5"),
    *("--config.checkpoint_every_steps=5", "--config.lr_drop_steps=(15,)"),
    "--config.data.flip=True",
    "--config.learning_rate=0.01",  # at 0.1 rounding grows to percents in twelve steps
]


def begin(workdir, *arguments, devices):
    """Starts a process that prints to the files .out and .err beside its workdir."""
    environment = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_NUM_CPU_DEVICES": str(devices)}
    paths = [workdir.with_suffix(suffix) for suffix in (".out", ".err")]
    return start(*COMMAND, f"--workdir={workdir}", *arguments, paths=paths, **environment)


def begin_pair(folder, *arguments):
    """Starts two processes; the second is given a folder that it has no use for."""
    flags = [*arguments, *flags_of_two()]
    return [
        begin(folder / name, *flags, f"--process_id={i}", devices=2)
        for i, name in enumerate(("run", "unused"))
    ]


def finish(process, workdir):
    """Returns what it has printed."""
    process.join(300)
    assert process.exitcode == 0, workdir.with_suffix(".err").read_text()
    return workdir.with_suffix(".out").read_text()


def records(workdir):
    return [without_times(record) for record in read_metrics(workdir)]


def result(workdir):
    found = without_times(read_sealed(workdir / "result.json"))
    del found["files"]  # digests, of numbers that are equal only to rounding
    return found


def assert_close(actual, expected):
    """Equal text and names, and equal numbers: to rounding, which may move an example of 948."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a == (b if isinstance(b, str) else pytest.approx(b, rel=1e-3, abs=2e-3))


@pytest.mark.slow
def test_two_processes_are_one_though_they_streamed_and_one_was_killed(tmp_path):
    alone, run, unused = (tmp_path / name for name in ("alone", "run", "unused"))
    digits = write_digits(tmp_path / "digits.npz")
    finish(begin(alone, *digits, devices=1), alone)

    first, second = begin_pair(tmp_path, *digits, "--config.data.resident=False")
    wait_for(run / "checkpoints" / "5", first, run.with_suffix(".err"))
    second.kill()
    first.join(60)
    assert first.exitcode not in (None, 0)
    err = run.with_suffix(".err").read_text()
    error = err.splitlines()[-1]
    assert "Traceback" not in err and ("start all of them again" in error or "coordination" in err)
    second.join()
    assert not (run / "result.json").exists()

    pair = begin_pair(tmp_path, *digits)
    workdirs = (run, unused)
    out = [finish(process, path) for process, path in zip(pair, workdirs, strict=True)]
    assert "test error, last step" in out[0] and "test error" not in out[1]
    assert not unused.exists()
    chex.assert_trees_all_close(saved(run, 20), saved(alone, 20), rtol=1e-4, atol=2e-5)
    assert_close(records(run), records(alone))
    results = [result(run), result(alone)]
    assert [r.pop("device").split(" x ")[0] for r in results] == ["4", "1"]
    assert_close(*results)


# --- Without other processes ----------------------------------------------------------------------


def test_the_parts_of_a_batch_are_the_batch(monkeypatch):
    devices = [types.SimpleNamespace(process_index=i) for i in (0, 0, 1, 1, 2, 2)]
    positions = np.arange(12)
    parts = []
    for i in range(3):
        monkeypatch.setattr(jax, "process_index", lambda i=i: i)
        parts.append(positions[on_devices.own_part(12, devices)])
    assert [len(part) for part in parts] == [4] * 3
    np.testing.assert_array_equal(np.concatenate(parts), positions)


def test_devices_go_process_by_process_and_each_has_as_many(monkeypatch):
    def devices_of(*numbers):
        monkeypatch.setattr(hosts, "count", lambda: len(numbers))
        monkeypatch.setattr(jax, "local_devices", lambda i: [f"{i}.{k}" for k in range(numbers[i])])
        return on_devices.all_devices()

    assert devices_of(2, 2) == ["0.0", "0.1", "1.0", "1.1"]
    with pytest.raises(UserError, match=r"the processes have \[2, 4\] devices"):
        devices_of(2, 4)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("127.0.0.1:99", None, None), "--num_processes: missing"),
        ((None, 2, 1), "--coordinator_address: missing"),
        (("127.0.0.1:99", 2, None), "--process_id: missing"),
        (("127.0.0.1:99", 2, 2), r"--process_id: 2; must be in 0\.\.1"),
        (("127.0.0.1:99", 0, 0), r"--num_processes: 0; must be in 1\.\.65535"),
        (("127.0.0.1:99999", 2, 0), "--coordinator_address: '127.0.0.1:99999'; must be HOST:PORT"),
        (("127.0.0.1", 2, 0), "--coordinator_address: '127.0.0.1'; must be HOST:PORT"),
    ],
)
def test_flags_that_make_no_sense(flags, message):
    with pytest.raises(UserError, match=message), hosts.joined(*flags):
        pass


def test_jax_is_asked_for_other_processes_only_where_there_may_be_some(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: calls.append(given))
    monkeypatch.setattr(faulthandler, "disable", lambda: None)  # pytest's own

    def asked(*flags, tasks=None, libtpu=None):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: libtpu)
        for name, value in (("STEP_NODELIST", "a[1-2]"), ("NTASKS", tasks)):
            monkeypatch.delenv(f"SLURM_{name}", raising=False)
            if tasks:
                monkeypatch.setenv(f"SLURM_{name}", value)
        calls.clear()
        with hosts.joined(*(flags or (None, None, None))):
            assert hosts.count() == 1 and hosts.is_first()
        return calls

    nothing = [(None, None, None)]
    assert asked() == []
    assert asked(tasks="2") == nothing
    assert asked(tasks="1") == asked(tasks="1", libtpu="libtpu") == []
    assert asked(libtpu="libtpu") == nothing
    assert asked(None, 1, None, tasks="2") == []
    assert asked("host:99", 2, 1) == [("host:99", 2, 1)]


def test_a_checkpoint_of_several_hosts_is_one_of_a_single_one(monkeypatch, tmp_path):
    history = add_visits(
        empty_history(2, {"weight": ()}), jnp.array([1]), {"weight": jnp.array([1.0])}
    )
    state = TrainState(
        params={"model": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "method": ()},
        model_state={},
        opt_state=(),
        method_state=(),
        step=jnp.asarray(3),
        key=jax.random.key_data(jax.random.key(7)),
        history=history,
    )
    configs = []
    with Checkpoints(tmp_path, configs.append) as checkpoints:
        monkeypatch.setattr(hosts, "count", lambda: 2)
        checkpoints.save(state, {"seed": 1}, "text")
    monkeypatch.setattr(hosts, "count", lambda: 1)
    with Checkpoints(tmp_path, configs.append) as checkpoints:
        restored = checkpoints.restore_latest(like=jax.tree.map(jnp.zeros_like, state))
    chex.assert_trees_all_equal(restored.state, state)
    assert (restored.config, restored.metrics, configs) == ({"seed": 1}, "text", [{"seed": 1}])


def test_processes_of_different_configs_do_not_mix(digits_config, monkeypatch):
    monkeypatch.setattr(hosts, "from_first", lambda compute: compute() | {"data.name": "mnist"})
    with pytest.raises(UserError, match="config.data.name: digits, but mnist in the first process"):
        hosts.check_same(digits_config().to_json())
