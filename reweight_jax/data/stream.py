"""Training images read ahead by background workers: what trains on a set that is not resident."""

import contextlib
import functools
import multiprocessing
import os
import threading
from collections.abc import Iterator

import numpy as np
from absl import flags, logging

from reweight_jax.data.batches import RowsOf, batch_rows
from reweight_jax.data.lazy import LazyImages
from reweight_jax.errors import UserError

# Without worker processes. They wait for a disk side by side, but decoding is mostly Python: of
# CIFAR-10 on one core, eight threads read no more images a second than one (2,200 to 2,800).
READ_THREADS = 4


def stream_images(
    image: LazyImages,
    rows_of: RowsOf,
    steps: range,
    batch_size: int,
    workers: int,
    part: slice = slice(None),
) -> Iterator[np.ndarray]:
    """Yields the images of dispatch after dispatch; closing it ends the workers.

    Args:
      image: of the training set.
      rows_of: its sampler, which alone decides the order.
      steps: at which the dispatches begin, in strides of k, the steps of one.
      batch_size: n.
      workers: processes that read batches; where 0, threads of this process do.
      part: of each batch, that is read; see `batch_rows`.

    Yields:
      uint8 [k, n, H, W, C]: row t of it is the batch of step `start + t`.

    Raises:
      UserError: an image that cannot be read, or a worker process that was killed.
    """
    import grain  # only here: what is resident needs none of it

    def read(step):
        return image[batch_rows(rows_of, step, 1, batch_size, part)[0]]

    # An element is one batch, not one dispatch: the batches of a dispatch are read side by side,
    # and while one dispatch waits to be taken the next is being read.
    threads = 0 if workers else READ_THREADS
    ahead = steps.step + threads
    pipeline = grain.MapDataset.range(steps.start, steps.stop).map(read)
    pipeline = pipeline.to_iter_dataset(grain.ReadOptions(threads, ahead))
    if workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; grain asks flags of its own for settings
            flags.FLAGS.mark_as_parsed()
        pipeline = pipeline.mp_prefetch(
            grain.MultiprocessingOptions(workers, per_worker_buffer_size=-(-ahead // workers)),
            worker_init_fn=functools.partial(_begin_worker, logging.get_verbosity()),
        )
    # np.stack copies, so that the memory shared with a worker is free again at once.
    pipeline = pipeline.batch(steps.step, batch_fn=np.stack)
    with contextlib.closing(iter(pipeline)) as batches:
        try:
            yield from batches
        except RuntimeError as error:
            if not workers:
                raise
            # Grain says so of a worker that was killed.
            raise UserError(
                "config.data.workers: a process that reads images has ended; fewer of them need "
                f"less memory ({str(error).splitlines()[0]})"
            ) from error


def _begin_worker(verbosity, *worker):
    """What a worker process does first; `worker` is its number, and of how many."""
    del worker
    logging.set_verbosity(verbosity)  # it says no more than its parent would
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A run that is killed has no time to end its workers, which would wait for it for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
