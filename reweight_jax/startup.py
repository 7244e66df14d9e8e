"""What a command sets in its process before the first array: output, memory, caches, threads.

Only the command line and a sweep's workers call `prepare`; importing the package sets nothing.
"""

import ctypes
import importlib.util
import multiprocessing
import os
import sys
import threading

import jax

CACHE = "~/.cache/reweight_jax"
ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def prepare() -> None:
    """Sets everything below; the settings for CPUs only if there is no accelerator."""
    keep_output_from_failing()
    cache_compilations()
    if is_cpu_only():
        give_devices_threads()
        keep_freed_memory()
        step_on_this_thread()


def keep_output_from_failing() -> None:
    """Lets a run go on if stdout or stderr is closed or full, or nobody reads it any more."""
    for fd, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(fd)
        except OSError:  # closed; the next file that is opened would take its place
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
        stream = getattr(sys, name) or open(os.devnull, "w")
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # of a file whose name is no text
        setattr(sys, name, _Stream(stream, of_python=name == "stderr"))


class _Stream:
    """A text stream; what cannot be written is lost, and the first error is kept.

    `of_python`: threads that Python has not started are not heard: when a save has failed,
    tensorstore's print tracebacks of a loop that is closed.
    """

    def __init__(self, stream, of_python):
        self._stream, self._of_python, self.error = stream, of_python, None

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        if self._of_python and threading.current_thread().name.startswith("Dummy-"):
            return len(text)
        return self._try(self._stream.write, text)

    def flush(self):
        self._try(self._stream.flush)

    def _try(self, function, *arguments):
        try:
            return function(*arguments)
        except OSError as error:
            self.error = self.error or error
            nowhere = os.open(os.devnull, os.O_WRONLY)  # for what is still in its buffer
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def machine_memory() -> int | None:
    """Returns the bytes of memory of this machine; None if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def is_cpu_only() -> bool:
    """Returns whether JAX has only CPUs, by JAX_PLATFORMS or because no plugin is installed."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == "cpu"
    return not any(importlib.util.find_spec(plugin) for plugin in ACCELERATORS)


def give_devices_threads() -> None:
    """Gives XLA twice as many threads as there are CPU devices, if there are several.

    A precaution: runs on a busy machine were seen to wait in a collective until XLA aborted them,
    for a reason that is not known. A device that waits may block a thread of XLA's pool.
    """
    if jax.config.jax_num_cpu_devices > 1:
        os.environ.setdefault("NPROC", str(2 * jax.config.jax_num_cpu_devices))


def keep_freed_memory() -> None:
    """Tells glibc, before threads allocate, to reuse large blocks instead of returning them.

    XLA's CPU backend allocates a step's buffers again at every step, and glibc gets blocks above
    32 MiB from the kernel each time, page by page: 243,000 page faults in a ResNet-32 step.
    """
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)  # arenas of other threads cannot grow this large
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def cache_compilations() -> None:
    """Keeps compiled programs in `CACHE` for later runs of the same program.

    JAX_COMPILATION_CACHE_DIR, which JAX itself reads, names another folder; empty: no cache.
    """
    folder = os.path.expanduser(CACHE)  # unchanged if there is no home
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and folder != CACHE:
        jax.config.update("jax_compilation_cache_dir", folder)


def step_on_this_thread() -> None:
    """Makes a CPU run a program on the thread that calls it.

    Asynchronous dispatch adds a thread to the one per core that share the convolutions: a ResNet-32
    step of a training run took 1.3 to 2.3 s instead of 1.1 (jax 0.12, two cores).
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def end_with_parent() -> None:
    """Ends a worker process with its parent: one that was killed cannot end its workers."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def take_cores(counter, workers: int) -> None:
    """Binds a worker process to its share of the cores, if the system can.

    Args:
      counter: a `multiprocessing.Value("i", 0)` that all workers share.
      workers: their number.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    with counter.get_lock():
        index, counter.value = counter.value, counter.value + 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[index % workers :: workers] or cores)
