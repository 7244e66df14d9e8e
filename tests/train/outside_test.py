"""What happens to a run from outside: Ctrl-C, folders moved or locked away, output nobody reads."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT

RUN = [
    *(sys.executable, "-m", "reweight_jax.main", "--config=configs/mnist_imbalance.py:digits"),
    *("--config.model.name=mlp", "--config.model.hidden=(8,)", "--config.batch_size=12"),
    *("--config.data.num_clean=8", "--config.num_steps=3000", "--config.log_every_steps=1"),
    *("--config.eval_every_steps=100", "--config.checkpoint_every_steps=1"),
]
# As somebody who is not root, whom permissions stop.
AS_A_USER = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search,-fowner",
    "--inh-caps=-dac_override,-dac_read_search",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and permissions of Linux"),
]


def start(*command, **options):
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TQDM_DISABLE": "1"}
    return subprocess.Popen(command, env=environment, text=True, **options)


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)


def error_of(process):
    """The one line that the command leaves on stderr."""
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_ctrl_c_while_checkpoints_are_saved(tmp_path):
    for step in (5, 6, 7):
        process = start(*RUN, f"--workdir={tmp_path / str(step)}")
        wait_for(tmp_path / str(step) / "checkpoints" / str(step), process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 130, error
        assert error.strip() == "interrupted: the same command goes on from the last checkpoint"


@pytest.mark.parametrize("happens", [shutil.rmtree, lambda folder: folder.rename(f"{folder}2")])
def test_a_folder_that_goes_away_ends_the_run_in_one_line(happens, tmp_path):
    process = start(*RUN, f"--workdir={tmp_path / 'run'}")
    wait_for(tmp_path / "run" / "checkpoints" / "20", process)
    for _ in range(100):  # orbax makes files while the tree is removed
        try:
            happens(tmp_path / "run")
            break
        except OSError:
            time.sleep(0.01)
    assert str(tmp_path / "run") in error_of(process)


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere"
)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_checkpoints_that_may_not_be_written_are_one_line(when, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    command = [*(AS_A_USER if os.geteuid() == 0 else []), *RUN, f"--workdir={tmp_path / 'run'}"]
    if when == "before":
        folder.mkdir(parents=True)
        folder.chmod(0o555)
    process = start(*command)
    if when == "meanwhile":
        wait_for(folder / "20", process)
        folder.chmod(0o555)
    error = error_of(process)
    folder.chmod(0o755)
    assert f"{folder}: a checkpoint cannot be written" in error and "denied" in error


def test_output_that_cannot_be_written_does_not_end_a_run(tmp_path):
    run = [*RUN, f"--workdir={tmp_path / 'run'}", "--config.num_steps=20"]
    closed = start("sh", "-c", 'exec "$@" >&- 2>&-', "sh", *run)
    closed.communicate(timeout=120)
    assert closed.returncode == 0
    expected = (tmp_path / "run" / "result.json").read_bytes()
    unread = start("bash", "-c", 'set -o pipefail; "$@" 2>&1 | head -c1', "bash", *run)
    unread.communicate(timeout=120)
    assert unread.returncode == 0
    with open("/dev/full", "w") as full:
        process = start(*run, stdout=full)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "\nerror: all is done, but stdout cannot be written" in error
    assert (tmp_path / "run" / "result.json").read_bytes() == expected
