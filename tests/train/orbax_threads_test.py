"""What orbax's threads print, and when Ctrl-C takes effect."""

import signal
import subprocess
import sys
import threading

import pytest

from reweight_jax.train.orbax_threads import quiet, uninterrupted


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
