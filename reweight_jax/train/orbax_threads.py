"""The threads in which orbax writes a checkpoint: what they print, Ctrl-C, and how they end."""

import contextlib
import os
import signal
import sys
import threading
import traceback

PATIENCE = 3.0  # seconds

_lock = threading.Lock()
_before: list = []  # the hook before the first of the runs that are going on, once for each


@contextlib.contextmanager
def quiet():
    """Lets the threads fail without a traceback: orbax raises their errors again where it saves."""
    with _lock:
        hook = _before[0] if _before else threading.excepthook
        _before.append(hook)

    def thread_failed(arguments):
        if not _is_of_orbax(traceback.walk_tb(arguments.exc_traceback)):
            hook(arguments)

    threading.excepthook = thread_failed
    try:
        yield
    finally:
        with _lock:
            _before.pop()
            if not _before:
                threading.excepthook = hook


@contextlib.contextmanager
def uninterrupted():
    """Lets Ctrl-C take effect afterwards: inside, it would leave threads that fail at the end.

    A second Ctrl-C is not kept waiting.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    interrupts = []

    def interrupt(*arguments):
        interrupts.append(arguments)
        if len(interrupts) > 1:
            handler(*arguments)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if interrupts:
        handler(*interrupts[0])


def end_process(status: int) -> None:
    """Raises SystemExit, and ends the process if it then has to wait for threads of orbax.

    They wait ten minutes and more for what a thread that has failed will never do.
    """
    frames = sys._current_frames()
    others = [t for t in threading.enumerate() if not t.daemon and t.ident in frames]
    if any(_is_of_orbax(traceback.walk_stack(frames[thread.ident])) for thread in others):
        timer = threading.Timer(PATIENCE, os._exit, [status])
        timer.daemon = True
        timer.start()
    sys.exit(status)


def _is_of_orbax(frames):
    return any("/orbax/checkpoint/" in frame.f_code.co_filename for frame, _ in frames)
