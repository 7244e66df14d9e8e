"""The threads in which orbax writes a checkpoint: what they print, and what Ctrl-C does to them."""

import contextlib
import signal
import sys
import threading
import traceback


@contextlib.contextmanager
def quiet():
    """Lets the threads fail without a traceback: orbax raises their errors again where it saves."""
    hooks = threading.excepthook, sys.excepthook

    def thread_failed(arguments):
        frames = traceback.extract_tb(arguments.exc_traceback)
        if not any("orbax" in frame.filename for frame in frames):
            hooks[0](arguments)

    threading.excepthook = thread_failed
    sys.excepthook = lambda *_: None  # tensorstore's; an exception of ours comes to it afterwards
    try:
        yield
    finally:
        threading.excepthook, sys.excepthook = hooks


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
