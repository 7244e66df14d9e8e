"""The threads in which orbax writes a checkpoint: what they print, and what Ctrl-C does to them."""

import contextlib
import signal
import threading
import traceback

_lock = threading.Lock()
_before: list = []  # the hook before the first of the runs that are going on, once for each


@contextlib.contextmanager
def quiet():
    """Lets the threads fail without a traceback: orbax raises their errors again where it saves."""
    with _lock:
        hook = _before[0] if _before else threading.excepthook
        _before.append(hook)

    def thread_failed(arguments):
        frames = traceback.extract_tb(arguments.exc_traceback)
        if not any("/orbax/checkpoint/" in frame.filename for frame in frames):
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
