"""Whole runs on the bundled digits: what they leave, and what a kill or a damaged file costs."""

import json
import shutil

import chex
import numpy as np
import pytest
from commands import assert_one_line, command, start, wait_for
from whole_runs import ONE_DEVICE, records, saved, train_undrawn, without_times

from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS
from reweight_jax.records import result as results
from reweight_jax.records.metrics import read_metrics
from reweight_jax.sealed import read_sealed, seal
from reweight_jax.train import dispatch
from reweight_jax.train.loop import train_and_evaluate

WHOLE_RUNS = ("clean_only", "s_model_conf", "reweight")  # the other methods' are slow tests


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in WHOLE_RUNS else pytest.mark.slow) for name in METHODS],
)
def test_every_method_runs_and_leaves_what_it_should(
    method, digits_config, tmp_path, short_mentor, confusion_run
):
    model = "lenet" if method == "reweight" else "mlp"
    fields = {"confusion_from": confusion_run(2), "model.name": model}
    config = digits_config(method=method, **fields)
    result = train_and_evaluate(config, tmp_path, ONE_DEVICE)
    assert result == read_sealed(tmp_path / "result.json")
    assert (result["config"], result["variant"]) == ("mnist_imbalance", "digits")
    assert (result["method"], result["dataset"], result["seed"]) == (method, "digits", 0)
    assert result["last"]["step"] == result["num_steps"] == 6
    assert result["last"]["test_error"] == pytest.approx(1 - result["last"]["test_accuracy"])
    kinds = [(r["kind"], r["step"]) for r in read_metrics(tmp_path)]
    assert [k for k in kinds if k[0] != "confusion"] == [
        (kind, step) for step in (2, 4, 6) for kind in ("train", "eval")
    ]
    train = records(tmp_path)[0]
    assert train.keys() == {
        *("step", "kind", "loss", "plain_loss", "error", "zero_weights"),
        *("effective_sample_size", "class_mass", "steps_without_helpful_example"),
    }
    weights = () if method == "clean_only" else ("weights.png",)
    for plot in ("training_curve.png", "confusion.png", *weights):
        assert (tmp_path / "plots" / plot).read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("events.out.tfevents.*"))
    table = results.table(result)
    assert method in table and f"{result['last']['test_error']:.2%}" in table
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_several_devices_run_by_themselves(digits_config, tmp_path):
    one = train_undrawn(digits_config(), tmp_path / "one", ONE_DEVICE)
    four = train_undrawn(digits_config(), tmp_path / "four")
    assert four["last"] == pytest.approx(one["last"], rel=1e-4)
    assert four["device"].startswith("4 x") and one["device"].startswith("1 x")


def test_resumed_and_extended_in_process(digits_config, tmp_path):
    train_undrawn(digits_config(), tmp_path / "whole", ONE_DEVICE)
    train_undrawn(digits_config(num_steps=4), tmp_path / "parts", ONE_DEVICE)
    train_undrawn(digits_config(), tmp_path / "parts", ONE_DEVICE)
    chex.assert_trees_all_equal(saved(tmp_path / "parts", 6), saved(tmp_path / "whole", 6))
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    before = (tmp_path / "parts" / "config.json").read_text()
    with pytest.raises(UserError, match="config.num_steps: 4; .* is at step 6"):
        train_undrawn(digits_config(num_steps=4), tmp_path / "parts", ONE_DEVICE)

    assert (tmp_path / "parts" / "config.json").read_text() == before


def test_a_run_that_is_cut_short_has_one_record_of_its_last_step(digits_config, tmp_path):
    train_undrawn(digits_config(), tmp_path, ONE_DEVICE)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    train_undrawn(digits_config(num_steps=4), tmp_path, ONE_DEVICE)
    evaluations = [(r["kind"], r["step"]) for r in records(tmp_path) if r["kind"] != "train"]
    assert len(evaluations) == len(set(evaluations))
    assert {("eval", 4), ("confusion", 4)} <= set(evaluations)


@pytest.mark.slow
def test_another_confusion_matrix_is_other_data(digits_config, confusion_run, tmp_path):
    fields = {"method": "s_model_conf", "confusion_from": confusion_run(2), "num_steps": 2}
    folder = tmp_path / "run"
    result = train_undrawn(digits_config(**fields), folder, ONE_DEVICE)
    copied = shutil.copytree(fields["confusion_from"], tmp_path / "same")
    fields["confusion_from"] = str(copied)
    assert train_undrawn(digits_config(**fields), folder, ONE_DEVICE) == result
    other = read_sealed(copied / "result.json")
    other["confusion"]["best"]["hyper_val"][0][1] += 1
    (copied / "result.json").write_text(json.dumps(seal(other)))
    with pytest.raises(UserError, match="another confusion matrix, config.confusion_from"):
        train_undrawn(digits_config(**fields), folder, ONE_DEVICE)


def test_another_config_does_not_touch_the_folder(digits_config, tmp_path):
    train_undrawn(digits_config(num_steps=2), tmp_path, ONE_DEVICE)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds a run with another config.learning_rate"):
        train_undrawn(digits_config(learning_rate=0.5), tmp_path, ONE_DEVICE)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_loss_that_is_not_finite_stops_the_run(digits_config, tmp_path):
    every = {"log_every_steps": 1, "eval_every_steps": 6, "checkpoint_every_steps": 1}
    every["model.name"] = "lenet"  # whose gradient is large enough
    # 1e20: the first update is finite, and the loss after it is not.
    for learning_rate, message, kept in (
        (1e20, "the loss of step 2 is not finite; the last checkpoint", ["1"]),
        (3e38, "the parameters after step 1 are not finite", []),
    ):
        workdir = tmp_path / str(learning_rate)
        config = digits_config(learning_rate=learning_rate, **every)
        with pytest.raises(UserError, match=message):
            train_undrawn(config, workdir, ONE_DEVICE)
        assert [path.name for path in (workdir / "checkpoints").iterdir()] == kept
        assert not (workdir / "result.json").exists()


# --- As a user meets it: another process, killed -------------------------------------------------

COMMAND = [
    *("-m", "reweight_jax.main", "--config=configs/mnist_imbalance.py:digits"),
    *("--config.model.name=mlp", "--config.model.hidden=(8,)"),
    *("--config.batch_size=12", "--config.num_steps=160", "--config.log_every_steps=20"),
    *("--config.eval_every_steps=40", "--config.checkpoint_every_steps=40"),
]


def run(workdir, *arguments):
    return command(*COMMAND, f"--workdir={workdir}", *arguments)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finished = run(workdir)
    assert finished.returncode == 0, finished.stderr
    assert "test error, last step" in finished.stdout
    return workdir


def assert_same_run(workdir, expected):
    chex.assert_trees_all_equal(saved(workdir, 160), saved(expected, 160))  # bit for bit
    assert records(workdir) == records(expected)
    results = [json.loads((path / "result.json").read_text()) for path in (workdir, expected)]
    assert without_times(results[0]) == without_times(results[1])


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(uninterrupted, tmp_path):
    workdir, paths = tmp_path / "run", [tmp_path / name for name in ("out", "err")]
    process = start(*COMMAND, f"--workdir={workdir}", paths=paths)
    wait_for(workdir / "checkpoints" / "80", process, paths[1])
    process.kill()
    process.join()
    assert not (workdir / "result.json").exists()
    resumed = run(workdir)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(workdir, uninterrupted)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    for path in (workdir / "checkpoints" / "160").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    resumed = run(workdir)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{workdir}/checkpoints/160 is damaged" in resumed.stderr
    assert (workdir / "checkpoints" / "160.damaged").is_dir()
    assert_same_run(workdir, uninterrupted)


def test_when_every_checkpoint_is_damaged_it_says_so(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    stopped = run(workdir)
    assert stopped.returncode == 1
    assert "no checkpoint can be read" in stopped.stderr.splitlines()[-1]
    assert "Traceback" not in stopped.stderr


@pytest.mark.slow
def test_other_data_is_named_and_nothing_is_called_damaged(tmp_path):
    def write(rows, first=0, trusted=10):
        image = np.random.default_rng(0).integers(0, 256, (rows, 28, 28)).astype(np.uint8)
        label = np.arange(rows) % 2
        label[0] = first
        arrays = {"train_input": image, "train_label": label}
        arrays |= {"clean_input": image[:trusted], "clean_label": label[:trusted]}
        np.savez(tmp_path / "a.npz", **arrays)

    own = ("-m", "reweight_jax.main", "--config=configs/own_data.py", "--config.num_steps=20")
    own += (f"--workdir={tmp_path / 'run'}", "--config.batch_size=10", "--config.judge_for=0")
    own += (f"--config.data.path={tmp_path / 'a.npz'}",)
    write(60)
    finished = command(*own)
    assert finished.returncode == 0, finished.stderr
    assert "clean error, last step" in finished.stdout  # there is no test set
    for other in (64,), (60, 1), (60, 0, 12):  # more rows, another label, more that are trusted
        write(*other)
        assert_one_line(command(*own), "holds a run with other data")
    write(60)
    (tmp_path / "a.npz").rename(tmp_path / "b.npz")  # a place is no difference
    assert command(*own[:-1], f"--config.data.path={tmp_path / 'b.npz'}").returncode == 0
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"4", "10", "20"}  # it warms up, is to settle and ends


def test_the_digits_run_taught_it_something(uninterrupted):
    losses = [r["clean"]["loss"] for r in read_metrics(uninterrupted) if r["kind"] == "eval"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_a_last_dispatch_may_be_shorter(digits_config, tmp_path, monkeypatch):
    """Seven steps in dispatches of up to three, within intervals of two: the same as one by one."""
    every = {"log_every_steps": 2, "eval_every_steps": 4, "checkpoint_every_steps": 4}
    config = digits_config(num_steps=7, **every)
    train_undrawn(config, tmp_path / "single", ONE_DEVICE)
    config.steps_per_dispatch = 3
    train_undrawn(config, tmp_path / "three", ONE_DEVICE)
    chex.assert_trees_all_close(
        saved(tmp_path / "three", 7), saved(tmp_path / "single", 7), rtol=1e-4, atol=1e-6
    )
    lengths, never = dispatch._lengths, lambda step: 0
    assert [*lengths(0, 7, 3, 2, never)] == [2, 2, 2, 1]
    assert [*lengths(0, 8001, 25, 100, never)] == [25] * 320 + [1]
    assert [*lengths(210, 330, 25, 100, never)] == [25, 25, 25, 15, 25, 5]
    due = [-(-step // 15) for step in range(60)]  # chunks, before the steps 0, 15, 30, 45
    assert [*lengths(0, 50, 25, 100, due.__getitem__)] == [15, 15, 15, 5]
