"""Feeds batches of inputs to a run whose training set is not put on the device as a whole."""

import contextlib
import functools
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags, logging

from reweight_jax import startup
from reweight_jax.data.batches import RowsOf, batch_rows
from reweight_jax.data.examples import Inputs, is_lazy
from reweight_jax.errors import UserError

# Without worker processes. Threads overlap waits for a disk, but decoding is mostly Python: on one
# core, eight threads read no more images of CIFAR-10 a second than one (2,200 to 2,800).
READ_THREADS = 4


def stream_inputs(
    inputs: Inputs,
    rows_of: RowsOf,
    start: int,
    stop: int,
    batch_size: int,
    workers: int = 0,
    part: slice = slice(None),
    *,
    ahead: int = 1,
) -> Iterator[Inputs]:
    """Yields the inputs of one batch for each of the steps start..stop - 1, in order.

    Lazy inputs are read ahead in the background, by grain; arrays in memory are indexed on demand.
    Closing the iterator ends the threads and the worker processes.

    Args:
      inputs: of the training set.
      rows_of: the sampler, which decides the order.
      start, stop: steps of the run.
      batch_size: n, of the global batch.
      workers: processes that read lazy inputs; 0: threads of this process.
      part: the positions of each batch that are read and yielded.
      ahead: batches to keep ready, such as the steps of one dispatch.

    Raises:
      UserError: grain is missing, a row cannot be read, or a worker process was killed.
    """

    def read(step):
        rows = batch_rows(rows_of, step, 1, batch_size)[0, part]
        return jax.tree.map(lambda array: array[rows], inputs)

    if not is_lazy(inputs):
        yield from map(read, range(start, stop))
        return
    try:
        import grain  # only here: a set in memory does not need it
    except ImportError as error:
        raise UserError(
            f"config.data.resident: False needs grain to read ahead ({error}); "
            "pip install 'reweight-jax[stream]', or set it to True"
        ) from None
    threads = 0 if workers else READ_THREADS
    pipeline = grain.MapDataset.range(start, stop).map(read)
    pipeline = pipeline.to_iter_dataset(grain.ReadOptions(threads, ahead + threads))
    if workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; grain asks flags of its own for settings
            flags.FLAGS.mark_as_parsed()
        pipeline = pipeline.mp_prefetch(
            grain.MultiprocessingOptions(workers, per_worker_buffer_size=-(-ahead // workers)),
            worker_init_fn=functools.partial(_begin_worker, logging.get_verbosity()),
        )
        # A copy, so that the memory shared with a worker is free again at once.
        pipeline = pipeline.map(functools.partial(jax.tree.map, np.array))
    with contextlib.closing(iter(pipeline)) as batches:
        try:
            yield from batches
        except RuntimeError as error:
            if not workers:
                raise
            # Grain raises this if a worker was killed.
            raise UserError(
                "config.data.workers: a process that reads inputs has ended; fewer of them need "
                f"less memory ({str(error).splitlines()[0]})"
            ) from error


def _begin_worker(verbosity, *worker):
    """Sets up a worker process; grain passes its number and the number of workers."""
    logging.set_verbosity(verbosity)  # no more messages than from its parent
    startup.end_with_parent()
