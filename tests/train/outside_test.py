"""What happens to a run from outside: Ctrl-C, folders moved or locked away, output nobody reads."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, start
from whole_runs import write_digits

RUN = [
    *("-m", "reweight_jax.main", "--config=configs/mnist_imbalance.py:digits"),
    *("--config.model.name=mlp", "--config.model.hidden=(8,)", "--config.batch_size=12"),
    *("--config.data.num_clean=8", "--config.num_steps=3000", "--config.log_every_steps=1"),
    *("--config.eval_every_steps=100", "--config.checkpoint_every_steps=1"),
]
QUIET = {"JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and permissions of Linux"),
]


@pytest.fixture
def started(tmp_path):
    """(workdir, **options) -> a run in the background, which ends with the test."""
    processes = []

    def make(workdir, **options):
        paths = [tmp_path / name for name in ("out", "err")]
        processes.append(start(*RUN, f"--workdir={workdir}", paths=paths, **QUIET, **options))
        return processes[-1]

    yield make
    for process in processes:
        process.kill()


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.is_alive() and time.monotonic() < deadline, path
        time.sleep(0.02)


def end_of(process, tmp_path):
    """(exit status, what is on stderr) of a run."""
    process.join(120)
    return process.exitcode, (tmp_path / "err").read_text()


def error_of(process, tmp_path):
    """The one line that the command leaves on stderr."""
    status, error = end_of(process, tmp_path)
    assert status == 1, error
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_ctrl_c_while_checkpoints_are_saved(started, tmp_path):
    for step in (5, 6, 7):
        process = started(tmp_path / str(step))
        wait_for(tmp_path / str(step) / "checkpoints" / str(step), process)
        os.kill(process.pid, signal.SIGINT)
        status, error = end_of(process, tmp_path)
        assert status == 130, error
        assert error.strip() == "interrupted: the same command goes on from the last checkpoint"


@pytest.mark.parametrize("happens", [shutil.rmtree, lambda folder: folder.rename(f"{folder}2")])
def test_a_folder_that_goes_away_ends_the_run_in_one_line(happens, started, tmp_path):
    process = started(tmp_path / "run")
    wait_for(tmp_path / "run" / "checkpoints" / "20", process)
    for _ in range(100):  # orbax makes files while the tree is removed
        try:
            happens(tmp_path / "run")
            break
        except OSError:
            time.sleep(0.01)
    assert str(tmp_path / "run") in error_of(process, tmp_path)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_checkpoints_that_may_not_be_written_are_one_line(when, started, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    if when == "before":
        folder.mkdir(parents=True)
        folder.chmod(0o555)
    process = started(tmp_path / "run", as_a_user=True)
    if when == "meanwhile":
        wait_for(folder / "20", process)
        folder.chmod(0o555)
    error = error_of(process, tmp_path)
    folder.chmod(0o755)
    assert f"{folder}: a checkpoint cannot be written" in error and "denied" in error


def test_output_that_cannot_be_written_does_not_end_a_run(tmp_path):
    run = [*RUN, f"--workdir={tmp_path / 'run'}", "--config.num_steps=20"]
    run += write_digits(tmp_path / "digits.npz")  # without scikit-learn

    def shell(*command):
        options = {"cwd": ROOT, "env": os.environ | QUIET, "capture_output": True, "timeout": 120}
        return subprocess.run([*command, sys.executable, *run], **options).returncode

    assert shell("sh", "-c", 'exec "$@" >&- 2>&-', "sh") == 0
    expected = (tmp_path / "run" / "result.json").read_bytes()
    assert shell("bash", "-c", 'set -o pipefail; "$@" 2>&1 | head -c1', "bash") == 0
    process = start(*run, paths=["/dev/full", tmp_path / "err"], **QUIET)
    status, error = end_of(process, tmp_path)
    assert status == 1
    assert "\nerror: all is done, but stdout cannot be written" in error
    assert (tmp_path / "run" / "result.json").read_bytes() == expected
