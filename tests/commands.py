"""Command lines as a user starts them, in processes forked from one that has imported everything.

A process of its own for each takes seconds to import JAX. What is under test (exit status, the two
output streams) is the same.
"""

import contextlib
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["reweight_jax.api", "reweight_jax.cli", "sklearn.metrics"])


def command(*arguments, cwd=ROOT, timeout=300, **environment):
    """Runs `python *arguments`: "-m", module, flags, or a script and its flags.

    Returns a `subprocess.CompletedProcess` with text. Variables JAX_* of `environment` are set in
    JAX, which has read them already.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, name) for name in ("out", "err")]
        process = FORKING.Process(target=_run, args=(arguments, cwd, environment, paths))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout)
        texts = [path.read_text() for path in paths]
    return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


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


def _run(arguments, cwd, environment, paths):
    import jax

    for stream, path in zip((sys.stdout, sys.stderr), paths, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.chdir(cwd)
    os.environ.update(environment)
    for name, value in ({"JAX_PLATFORMS": "cpu"} | environment).items():
        if name.startswith("JAX_"):
            jax.config.update(name.lower(), int(value) if value.isdecimal() else value)
    if arguments[0] == "-m":
        run, sys.argv = runpy.run_module, list(arguments[1:])
    else:
        run, sys.argv = runpy.run_path, list(arguments)
    with contextlib.suppress(BrokenPipeError):
        run(
            sys.argv[0],
            run_name="__main__",
            **({"alter_sys": True} if run is runpy.run_module else {}),
        )
