"""Whole runs on the bundled digits: what they leave, and what a kill or a damaged file costs."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from whole_runs import ONE_DEVICE, records, saved, without_times

from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS
from reweight_jax.records import report
from reweight_jax.train import devices as parallel
from reweight_jax.train.loop import train_and_evaluate

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_leaves_what_it_should(
    method, digits_config, tmp_path, short_mentor, confusion_run
):
    config = digits_config(method=method, confusion_from=confusion_run(2))
    result = train_and_evaluate(config, tmp_path, ONE_DEVICE)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert (result["config"], result["variant"]) == ("mnist_imbalance", "digits")
    assert (result["method"], result["dataset"], result["seed"]) == (method, "digits", 0)
    assert result["last"]["step"] == result["num_steps"] == 6
    assert result["last"]["test_error"] == pytest.approx(1 - result["last"]["test_accuracy"])
    kinds = [(r["kind"], r["step"]) for r in report.read_metrics(tmp_path)]
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
    table = report.table(result)
    assert method in table and f"{result['last']['test_error']:.2%}" in table
    assert not list(tmp_path.rglob(".*"))


def test_best_is_chosen_on_hyper_val_and_never_on_test(digits_config):
    def evaluation(step, hyper_val, test):
        scores = {"hyper_val": hyper_val, "test": test, "clean": 1.0}
        return {"step": step, "kind": "eval", "weights": {}} | {
            split: {"accuracy": value, "error": 1 - value, "loss": 0.0}
            for split, value in scores.items()
        }

    train = {"kind": "train", "step": 4, "steps_without_helpful_example": 3}
    train |= {"seconds": 1.0, "steps_per_second": 2.0}
    evals = [evaluation(1, 0.8, 0.5), evaluation(2, 0.9, 0.6), evaluation(3, 0.9, 0.55)]
    evals.append(evaluation(4, 0.7, 0.99))
    evals.append(evaluation(6, 0.99, 0.98))  # of fine-tuning
    matrices = {"kind": "confusion", "test": [[5]], "hyper_val": [[6]]}
    evals += [matrices | {"step": step} for step in (3, 4, 6)]
    stops = {"last": 4, "finetuned_last": 6}
    result = report.build_result(digits_config(), [train, *evals], stops, ONE_DEVICE)
    assert result["best"]["step"] == 3 and result["best"]["test_accuracy"] == 0.55
    assert result["last"]["step"] == 4
    assert result["finetuned_last"]["test_accuracy"] == 0.98
    assert result["steps_without_helpful_example"] == 3


def test_several_devices_run_by_themselves(digits_config, tmp_path):
    one = train_and_evaluate(digits_config(), tmp_path / "one", ONE_DEVICE)
    four = train_and_evaluate(digits_config(), tmp_path / "four")
    assert four["last"] == pytest.approx(one["last"], rel=1e-4)
    assert four["device"].startswith("4 x") and one["device"].startswith("1 x")


def test_resumed_and_extended_in_process(digits_config, tmp_path):
    train_and_evaluate(digits_config(), tmp_path / "whole", ONE_DEVICE)
    train_and_evaluate(digits_config(num_steps=4), tmp_path / "parts", ONE_DEVICE)
    train_and_evaluate(digits_config(), tmp_path / "parts", ONE_DEVICE)
    chex.assert_trees_all_equal(saved(tmp_path / "parts", 6), saved(tmp_path / "whole", 6))
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    before = (tmp_path / "parts" / "config.json").read_text()
    with pytest.raises(UserError, match="config.num_steps: 4, but .* has come to step 6"):
        train_and_evaluate(digits_config(num_steps=4), tmp_path / "parts", ONE_DEVICE)

    assert (tmp_path / "parts" / "config.json").read_text() == before


def test_another_config_does_not_touch_the_folder(digits_config, tmp_path):
    train_and_evaluate(digits_config(num_steps=2), tmp_path, ONE_DEVICE)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds a run with another config.learning_rate"):
        train_and_evaluate(digits_config(learning_rate=0.5), tmp_path, ONE_DEVICE)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_loss_that_is_not_finite_stops_the_run(digits_config, tmp_path):
    every = {"log_every_steps": 1, "eval_every_steps": 6, "checkpoint_every_steps": 1}
    # 1e20: the first update is finite, and the loss after it is not.
    for learning_rate, message, kept in (
        (1e20, "the loss of step 2 of seed 0 is not finite; the last checkpoint", ["1"]),
        (3e38, "the parameters of seed 0 after step 1 are not finite", []),
    ):
        workdir = tmp_path / str(learning_rate)
        config = digits_config(learning_rate=learning_rate, **every)
        with pytest.raises(UserError, match=message):
            train_and_evaluate(config, workdir, ONE_DEVICE)
        assert [path.name for path in (workdir / "checkpoints").iterdir()] == kept
        assert not (workdir / "result.json").exists()


# --- As a user meets it: another process, killed -------------------------------------------------

COMMAND = [
    *(sys.executable, "-m", "reweight_jax.main", "--config=configs/mnist_imbalance.py:digits"),
    *("--config.batch_size=12", "--config.num_steps=400", "--config.log_every_steps=20"),
    *("--config.eval_every_steps=40", "--config.checkpoint_every_steps=40"),
]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}


def run(workdir, *arguments):
    command = [*COMMAND, f"--workdir={workdir}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finished = run(workdir)
    assert finished.returncode == 0, finished.stderr
    assert "test error, last step" in finished.stdout
    return workdir


def assert_same_run(workdir, expected):
    chex.assert_trees_all_equal(saved(workdir, 400), saved(expected, 400))  # bit for bit
    assert records(workdir) == records(expected)
    results = [json.loads((path / "result.json").read_text()) for path in (workdir, expected)]
    assert without_times(results[0]) == without_times(results[1])


def test_killed_and_resumed_is_uninterrupted(uninterrupted, tmp_path):
    process = subprocess.Popen(
        [*COMMAND, f"--workdir={tmp_path}"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoints" / "80").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "result.json").exists()
    resumed = run(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path, uninterrupted)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    for path in (workdir / "checkpoints" / "400").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    resumed = run(workdir)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{workdir}/checkpoints/400 is damaged" in resumed.stderr
    assert (workdir / "checkpoints" / "400.damaged").is_dir()
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


def test_checkpoints_of_other_data_are_not_called_damaged(tmp_path):
    def write(rows):
        image = np.random.default_rng(0).integers(0, 256, (rows, 28, 28)).astype(np.uint8)
        label = np.arange(rows) % 2
        arrays = {"train_image": image, "train_label": label}
        np.savez(tmp_path / "a.npz", **arrays, test_image=image, test_label=label)

    fields = ("name=npz", f"path={tmp_path / 'a.npz'}", "classes=()", "imbalance_ratio=0")
    arguments = [f"--config.data.{field}" for field in (*fields, "num_train=0")]
    write(60)
    assert run(tmp_path / "run", *arguments, "--config.num_steps=40").returncode == 0
    write(64)  # the history of weights has another shape now
    stopped = run(tmp_path / "run", *arguments)
    assert stopped.returncode == 1
    assert "no checkpoint can be read; of step 40: " in stopped.stderr
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["40"]


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_clean_gradient_is_kept_for_as_many_steps_as_said(
    on_cpu, digits_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(parallel, "_is_cpu", lambda device: on_cpu)
    intervals = dict.fromkeys(("log_every_steps", "eval_every_steps", "checkpoint_every_steps"), 1)
    config = digits_config(method="reweight", clean_gradient_every=2, num_steps=3, **intervals)
    train_and_evaluate(config, tmp_path, ONE_DEVICE)
    kept = [saved(tmp_path, step)["clean_gradient"] for step in (1, 2, 3)]
    chex.assert_trees_all_equal(kept[1], kept[0])
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(kept[0])) > 0
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(kept[2], kept[1])


def test_the_digits_run_taught_it_something(uninterrupted):
    losses = [r["plain_loss"] for r in report.read_metrics(uninterrupted) if r["kind"] == "train"]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
