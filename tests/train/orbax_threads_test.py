"""What orbax's threads print, and when Ctrl-C takes effect."""

import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from toy_fits import quick

from reweight_jax.train.orbax_threads import quiet, uninterrupted

EVERY = ("eval_every_steps", "checkpoint_every_steps")


def test_the_hook_comes_back_in_whatever_order_runs_end():
    before = threading.excepthook
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threading.excepthook is not before
    second.__exit__(None, None, None)
    assert threading.excepthook is before


def test_errors_of_other_threads_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: told.append(arguments.exc_type))

    def fail():
        raise KeyError

    with quiet():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert told == [KeyError]


def test_ctrl_c_waits_and_a_second_one_does_not(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        steps = []
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("whole")
        assert steps == ["whole"]
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            steps.append("not reached")
        assert steps == ["whole"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("path, ends", [("/x/orbax/checkpoint/a.py", True), ("/x/mine.py", False)])
def test_a_process_does_not_wait_for_threads_of_orbax(path, ends):
    """It waits for other threads: those that wait for ever keep it."""
    code = f"""
import sys, threading
from reweight_jax.train import orbax_threads
orbax_threads.PATIENCE = 0.1
begun, scope = threading.Event(), {{"event": threading.Event()}}
exec(compile("def wait(begun): begun.set(); event.wait()", {path!r}, "exec"), scope)
threading.Thread(target=scope["wait"], args=[begun]).start()
begun.wait()
print("begun", flush=True)
orbax_threads.end_process(7)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"begun\n"
        if ends:
            assert process.wait(60) == 7
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_runs_in_several_threads_save_without_each_other():
    def result(seed):
        run = quick(seed=seed, num_steps=40, log_every_steps=5, **dict.fromkeys(EVERY, 5))
        return run.result["last"], run.examples["margin"]

    alone, together = [result(seed) for seed in range(3)], {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.update({seed: result(seed)}))
        for seed in range(3)
    ]
    for thread in threads:
        thread.daemon = True  # a failure must not keep the tests from ending
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(together) == [0, 1, 2]
    for seed, (last, margin) in enumerate(alone):
        assert together[seed][0] == last
        np.testing.assert_array_equal(together[seed][1], margin)
