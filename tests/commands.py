"""Command lines as a user starts them, in processes forked from one that has imported everything.

A process of its own for each takes seconds to import JAX. What is under test (exit status, the two
output streams, what is done at exit) is the same.
"""

import atexit
import ctypes
import functools
import multiprocessing
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parents[1]
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    ["reweight_jax.api", "reweight_jax.cli", "sklearn.datasets", "sklearn.metrics"]
)
ENVIRONMENT = dict(os.environ)  # as conftest.py leaves it, before any test changes it
STARTED = []


def command(*arguments, cwd=ROOT, timeout=300, **environment):
    """Runs `python *arguments`: "-m", module, flags, or a script and its flags.

    Returns a `subprocess.CompletedProcess` with text. Variables JAX_* of `environment` are set in
    JAX, which has read them already, and TQDM_DISABLE in tqdm.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, name) for name in ("out", "err")]
        process = start(*arguments, paths=paths, cwd=cwd, finalizes=False, **environment)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout)
        texts = [path.read_text() for path in paths]
    return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


def start(*arguments, paths, cwd=ROOT, as_a_user=False, finalizes=True, **environment):
    """Starts such a command in the background; returns its `multiprocessing.Process`.

    `paths`: the files for its stdout and its stderr. `as_a_user`: permissions stop it, even if
    it is root's. `finalizes`: whether Python is finalised at its end.
    """
    _serve()
    arguments = (arguments, cwd, environment, paths, as_a_user, finalizes)
    process = FORKING.Process(target=_run, args=arguments)
    process.start()
    STARTED.append(process)
    return process


@functools.cache
def _serve():
    """Starts the process that the others are forked from."""
    with mock.patch.dict(os.environ, ENVIRONMENT, clear=True):
        forkserver.ensure_running()


def flags_of_two():
    """Flags with which two processes of this machine are one run; each also needs its number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [f"--coordinator_address={address}", "--num_processes=2"]


def kill_started():
    """Ends what a test has left running."""
    while STARTED:
        STARTED.pop().kill()


def wait_for(path, process, err):
    """Waits until `path` is there; fails with the text of the file `err` if the process ends."""
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.is_alive() and time.monotonic() < deadline, err.read_text()
        time.sleep(0.01)


def assert_one_line(finished, *parts):
    """The command ended with status 1 and one line on stderr that has all `parts`."""
    assert finished.returncode == 1, finished
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1, finished
    for part in parts:
        assert part in finished.stderr, finished.stderr
    assert "Traceback" not in finished.stderr


def assert_killed_alone(code):
    """Runs Python `code` that kills itself; no process that it has started goes on."""
    # It returns when the last process that holds the pipe, workers included, has ended.
    command = [sys.executable, "-c", code]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed


def _run(arguments, cwd, environment, paths, as_a_user, finalizes):
    import jax
    import tqdm

    for stream, path in zip((sys.stdout, sys.stderr), paths, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    if as_a_user:
        _drop_capabilities()
    os.chdir(cwd)
    os.environ.update(environment)
    for name, value in ({"JAX_PLATFORMS": "cpu"} | environment).items():
        if name.startswith("JAX_"):
            jax.config.update(name.lower(), int(value) if value.isdecimal() else value)
    if "TQDM_DISABLE" in environment:  # tqdm reads it while it is imported
        tqdm.tqdm.__init__ = functools.partialmethod(tqdm.tqdm.__init__, disable=True)
    ours = [str(ROOT / folder) for folder in (".", "tests", "scripts/benchmarks")]
    sys.path[:] = [path for path in sys.path if path not in ours]  # conftest.py's
    if arguments[0] == "-m":
        run, sys.argv = runpy.run_module, list(arguments[1:])
        sys.path.insert(0, str(cwd))
    else:
        run, sys.argv = runpy.run_path, list(arguments)
        sys.path.insert(0, str(pathlib.Path(arguments[0]).parent))
    options = {"alter_sys": True} if run is runpy.run_module else {}
    status = 0
    try:
        run(sys.argv[0], run_name="__main__", **options)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    # multiprocessing would end it at once; a process of its own calls what is registered for exit,
    # and finalises Python, which takes a second more.
    if finalizes:
        ctypes.pythonapi.Py_Exit(status)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


def _drop_capabilities():
    """Takes from this thread, and those it starts, what lets root pass over permissions."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()  # version 3
    assert libc.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    for i in range(3):  # effective, permitted, inheritable
        sets[i] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
