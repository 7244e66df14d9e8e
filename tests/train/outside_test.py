"""What happens to a run from outside: Ctrl-C, folders moved or locked away, output nobody reads."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, start, wait_for
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


def begin(workdir, **options):
    """Starts a run in the background."""
    paths = [workdir.parent / name for name in ("out", "err")]
    return start(*RUN, f"--workdir={workdir}", paths=paths, **QUIET, **options)


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


def test_ctrl_c_while_checkpoints_are_saved(tmp_path):
    for step in (5, 6, 7):
        process = begin(tmp_path / str(step))
        wait_for(tmp_path / f"{step}/checkpoints/{step}", process, tmp_path / "err")
        os.kill(process.pid, signal.SIGINT)
        status, error = end_of(process, tmp_path)
        assert status == 130, error
        assert error.strip() == "interrupted: the same command goes on from the last checkpoint"


@pytest.mark.parametrize("happens", [shutil.rmtree, lambda folder: folder.rename(f"{folder}2")])
def test_a_folder_that_goes_away_ends_the_run_in_one_line(happens, tmp_path):
    process = begin(tmp_path / "run")
    wait_for(tmp_path / "run" / "checkpoints" / "20", process, tmp_path / "err")
    for _ in range(100):  # orbax makes files while the tree is removed
        try:
            happens(tmp_path / "run")
            break
        except OSError:
            time.sleep(0.01)
    assert str(tmp_path / "run") in error_of(process, tmp_path)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_checkpoints_that_may_not_be_written_are_one_line(when, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    if when == "before":
        folder.mkdir(parents=True)
        folder.chmod(0o555)
    process = begin(tmp_path / "run", as_a_user=True)
    if when == "meanwhile":
        wait_for(folder / "20", process, tmp_path / "err")
        folder.chmod(0o555)
    error = error_of(process, tmp_path)
    folder.chmod(0o755)
    assert f"{folder}: a checkpoint cannot be written" in error and "denied" in error


def test_output_that_cannot_be_written_does_not_end_a_run(tmp_path):
    run = [*RUN, f"--workdir={tmp_path / 'run'}", "--config.num_steps=20"]
    run += write_digits(tmp_path / "digits.npz")  # scikit-learn takes seconds to import

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
