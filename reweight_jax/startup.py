"""What a command sets in its process before the first array: memory, programs, threads.

Only the command line and a sweep's workers call `prepare`: an imported library changes no process.
"""

import ctypes
import importlib.util
import os
import pathlib
import sys

import jax

CACHE = "~/.cache/reweight_jax"
ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def prepare() -> None:
    """Sets all of the below, and what is for a CPU only if there is nothing else to run on."""
    cache_compilations()
    if is_cpu_only():
        give_devices_threads()
        keep_freed_memory()
        step_on_this_thread()


def is_cpu_only() -> bool:
    """Returns whether JAX has only CPUs: it is told so, or no accelerator's plugin is installed."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == "cpu"
    return not any(importlib.util.find_spec(plugin) for plugin in ACCELERATORS)


def give_devices_threads() -> None:
    """Gives XLA twice as many threads as there are CPU devices, if there are several.

    A device that waits for the others in a collective blocks a thread of XLA's pool. With as many
    threads as devices, runs on a busy machine were seen to wait for each other forever.
    """
    if jax.config.jax_num_cpu_devices > 1:
        os.environ.setdefault("NPROC", str(2 * jax.config.jax_num_cpu_devices))


def keep_freed_memory() -> None:
    """Tells glibc to reuse large blocks instead of returning them to the kernel.

    XLA's CPU backend allocates a step's buffers again at every step, and glibc gets blocks above
    32 MiB from the kernel each time, page by page: 243,000 page faults in a ResNet-32 step. To be
    called before threads allocate. Does nothing if the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, 1)  # arenas of other threads cannot grow this large
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def cache_compilations() -> None:
    """Keeps compiled programs in `CACHE`, where the next run of the same program finds them.

    JAX_COMPILATION_CACHE_DIR names another folder, and an empty value turns this off.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # JAX reads it itself
    try:
        folder = pathlib.Path(CACHE).expanduser()
    except RuntimeError:  # there is no home
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def step_on_this_thread() -> None:
    """Makes a CPU run a program on the thread that asks for it.

    Dispatched ahead, it runs on one thread more than there are cores, beside those that share its
    convolutions: a ResNet-32 step of a training run took 1.3 to 2.3 s instead of 1.1 (jax 0.12, two
    cores).
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
