"""What orbax's threads print, and when Ctrl-C takes effect."""

import signal
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
