"""Runs that are killed, started twice, or run out of disk: nothing is lost, and nobody is misled.

REWEIGHT_JAX_FUZZ=full makes 40 kills, 10 of one of two processes, 20 races and 10 full disks; the
default is one or two of each.
"""

import concurrent.futures
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import command, flags_of_two, start
from whole_runs import without_times

from reweight_jax.sealed import read_sealed

FULL = os.environ.get("REWEIGHT_JAX_FUZZ") == "full"
NUM_KILLS, NUM_PAIRS, NUM_RACES, NUM_DISKS = (40, 10, 20, 10) if FULL else (2, 0, 1, 1)
RUN = [
    *("-m", "reweight_jax.main", "--config=configs/mnist_imbalance.py:digits"),
    *("--config.model.name=mlp", "--config.model.hidden=(8,)", "--config.batch_size=12"),
    *("--config.num_steps=120", "--config.warm_up=1", "--config.settle_at=0.5"),
    *("--config.data.num_clean=8", "--config.data.num_calibration=4", "--config.retrain=relabel"),
    *("--config.log_every_steps=20", "--config.eval_every_steps=20"),
    "--config.checkpoint_every_steps=20",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, seconds) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    start = time.perf_counter()
    finished = command(*RUN, f"--workdir={folder}")
    assert finished.returncode == 0, finished.stderr
    return folder, time.perf_counter() - start


def start_pair(folder):
    """Starts the two processes of one run; they print to the files out0, err0, out1 and err1."""
    folder.mkdir(exist_ok=True)
    flags = [*flags_of_two(), f"--workdir={folder / 'run'}"]
    return [
        start(
            *(*RUN, *flags, f"--process_id={i}"),
            paths=[folder / f"{name}{i}" for name in ("out", "err")],
        )
        for i in range(2)
    ]


def assert_same(folder, expected):
    """The same result, the same judgement of every label, and nothing half-written."""
    results = [read_sealed(path / "result.json") for path in (folder, expected)]
    assert without_times(results[0]) == without_times(results[1])
    for name in ("examples.npz", "calibration.npz"):
        with np.load(folder / name) as mine, np.load(expected / name) as theirs:
            for key in theirs:
                np.testing.assert_array_equal(mine[key], theirs[key])
    assert (folder / "suspects.csv").read_bytes() == (expected / "suspects.csv").read_bytes()
    assert not [*folder.rglob("*.part")]


def test_killed_at_any_moment_it_ends_the_same(whole, tmp_path):
    expected, seconds = whole
    for i in range(NUM_KILLS):
        folder, rng = tmp_path / f"run{i}", random.Random(i)
        paths = [tmp_path / name for name in ("out", "err")]
        process = start(*RUN, f"--workdir={folder}", paths=paths)
        process.join(rng.uniform(0, seconds))
        process.kill()
        process.join()
        resumed = command(*RUN, f"--workdir={folder}")
        assert resumed.returncode == 0, (i, resumed.stderr)
        assert_same(folder, expected)
        shutil.rmtree(folder)


@pytest.mark.skipif(not FULL, reason="takes minutes; hosts_test.py kills a process too")
def test_if_one_of_two_processes_is_killed_the_other_ends_and_they_go_on_later(tmp_path):
    start_time = time.perf_counter()
    for process in start_pair(tmp_path / "whole"):
        process.join(300)
        assert process.exitcode == 0, [path.read_text() for path in tmp_path.rglob("err?")]
    seconds = time.perf_counter() - start_time
    for i in range(NUM_PAIRS):
        folder, rng = tmp_path / str(i), random.Random(i)
        pair = start_pair(folder)
        deadline = time.monotonic() + 300
        while not (folder / "run" / "lock_holder").exists():  # until they have met
            assert time.monotonic() < deadline and pair[0].is_alive()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.7 * seconds))
        killed = rng.randrange(2)
        pair[killed].kill()
        pair[1 - killed].join(90)
        error = (folder / f"err{1 - killed}").read_text()
        assert pair[1 - killed].exitcode not in (None, 0) or (folder / "run/result.json").exists()
        assert "Traceback" not in error, (i, error)
        for process in start_pair(folder):
            process.join(300)
            assert process.exitcode == 0, (i, [path.read_text() for path in folder.glob("err?")])
        assert_same(folder / "run", tmp_path / "whole" / "run")
        shutil.rmtree(folder)


def test_of_two_commands_one_is_refused(whole, tmp_path):
    expected, _ = whole
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for i in range(NUM_RACES):
            both = [pool.submit(command, *RUN, f"--workdir={tmp_path / str(i)}") for _ in range(2)]
            first, second = sorted((one.result() for one in both), key=lambda run: run.returncode)
            assert (first.returncode, second.returncode) == (0, 1), second.stderr
            assert second.stderr.splitlines()[-1].startswith("error: --workdir ")
            assert "in use by process " in second.stderr and "Traceback" not in second.stderr
            assert_same(tmp_path / str(i), expected)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(whole, tmp_path):
    expected, _ = whole
    need = sum(path.stat().st_size for path in expected.rglob("*") if path.is_file())
    for size in np.linspace(20_000, 0.9 * need, NUM_DISKS).astype(int):
        disk = tmp_path / str(size)
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a disk cannot be mounted here")
        try:
            stopped = command(*RUN, f"--workdir={disk / 'run'}")
            assert stopped.returncode == 1, stopped.stderr
            assert stopped.stderr.splitlines()[-1].startswith("error: "), stopped.stderr
            assert "Traceback" not in stopped.stderr, stopped.stderr
            assert not [*disk.rglob("*.part")]
            subprocess.run(["mount", "-o", "remount,size=100M", str(disk)], check=True)
            resumed = command(*RUN, f"--workdir={disk / 'run'}")
            assert resumed.returncode == 0, resumed.stderr
            assert_same(disk / "run", expected)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
