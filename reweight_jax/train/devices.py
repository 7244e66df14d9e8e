"""Compiles and places a loop over steps on one device (`jax.jit`) or several (`jax.pmap`).

Every device has the whole state, a resident data set and the row numbers of the whole batch, and
takes its share of these rows itself. Several steps make one dispatch, so that an accelerator does
not wait for Python. `devices` are those of all processes, in the same order everywhere.
"""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax import startup
from reweight_jax.data.examples import Examples
from reweight_jax.errors import UserError, one_line
from reweight_jax.train import hosts
from reweight_jax.train import resident as layout

AXIS = "batch"


def all_devices() -> list[jax.Device]:
    """Returns the devices of all processes; UserError if one has more of them than another."""
    if hosts.count() == 1:
        try:
            return jax.local_devices()
        except RuntimeError as error:  # JAX_PLATFORMS names what is not there
            raise UserError(f"JAX has no device ({one_line(error)})") from error
    # One process after the other, which `jax.devices` does not promise.
    groups = [jax.local_devices(i) for i in range(hosts.count())]
    numbers = [len(group) for group in groups]
    if len(set(numbers)) > 1:
        raise UserError(f"the processes have {numbers} devices; each must have as many")
    return [device for group in groups for device in group]


def axis_name(devices) -> str | None:
    """Returns the name of the device axis, or None on one device."""
    return AXIS if len(devices) > 1 else None


def on_cpu(devices) -> bool:
    """Returns whether the run's devices are CPUs, which have models and loops of their own."""
    return devices[0].platform == "cpu"


def memory(devices) -> int | None:
    """Returns the bytes of memory of a device, of CPUs those of the machine; None if unknown."""
    if on_cpu(devices):
        return startup.machine_memory()
    try:
        return (own(devices)[0].memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # a device that programs are only compiled for
        return None


def own_part(size: int, devices) -> slice:
    """Returns which positions of a batch of `size` belong to this process's devices."""
    share = size // len(devices)
    first = devices.index(own(devices)[0])
    return slice(first * share, (first + len(own(devices))) * share)


def bind_data(program, train: Examples, clean: Examples | None, devices, *, resident=True, size=0):
    """Puts the data on the devices, for a loop of training steps over it.

    Args:
      program: `steps_program`.
      train: training set.
      clean: clean set; None if the method needs none.
      devices: of the run; the batch size must be a multiple of their number. If the clean batch's
        is not, every device takes all of it: the same gradient, except for dropout's masks.
      resident: whether the training inputs are on every device; if not, only the labels are.
      size: to which the training set is padded, if it is smaller, so that sets share a program.

    Returns:
      run(state, rows int32 [k, n], clean_rows int32 [k, m] or None, inputs=None) -> (state, metrics
      with a leading [k]). The state is donated. Each new k compiles once. `inputs`: of a set that
      is not resident, those of the rows, as `put_ahead` yields them.
    """
    on_host = on_cpu(devices)
    data = {"train": layout.resident(train, inputs=resident, on_cpu=on_host, size=size)}
    if clean is not None:
        data["clean"] = layout.resident(clean, inputs=True, on_cpu=on_host)
    data = jax.device_put(data, _everywhere(devices))
    index = np.arange(len(devices))[own_part(len(devices), devices)]
    return lambda state, rows, clean_rows, inputs=None: program(
        state, data, rows, clean_rows, inputs, index
    )


def steps_program(step, devices):
    """Returns the loop over steps of `bind_data`, not compiled yet, as a function that has `lower`.

    `step` is (state, batch, clean_batch) -> (state, metrics), with the axis_name of the devices. It
    takes (state, data, rows, clean_rows, inputs, index): data is {"train", "clean"} of what
    `resident` returns, index int32 [devices of this process] their numbers.
    """
    # XLA's CPU backend does not optimise convolutions inside control flow: in a loop, even of one
    # iteration, a LeNet step took 450 ms instead of 25 (jax 0.10), so there loops are unrolled.
    axis, unroll = axis_name(devices), 0 if on_cpu(devices) else 1

    def take(examples, rows, index):
        """This device's share of a batch, and the share's places in the whole batch."""
        first = jnp.zeros((), jnp.int32)
        if axis and len(rows) % len(devices) == 0:
            share = len(rows) // len(devices)
            first = share * index
            rows = jax.lax.dynamic_slice_in_dim(rows, first, share)
        return layout.take(examples, rows) | {"row": rows, "place": first + jnp.arange(len(rows))}

    def run(state, data, rows, clean_rows, inputs, index):
        def body(state, step_data):
            rows, clean_rows, inputs = step_data
            batch = take(data["train"], rows, index)
            if inputs is not None:
                batch |= {"inputs": inputs}
            clean_batch = None if clean_rows is None else take(data["clean"], clean_rows, index)
            return step(state, batch, clean_batch)

        return jax.lax.scan(body, state, (rows, clean_rows, inputs), unroll=unroll)

    options = {"in_axes": (None, None, None, None, 0, 0), "out_axes": (None, None)}
    options |= {"axis_name": axis, "devices": devices}
    return jax.pmap(run, donate_argnums=0, **options) if axis else jax.jit(run, donate_argnums=0)


def put_ahead(inputs: Iterator, devices) -> Iterator:
    """Yields what `bind_data` takes as inputs, one dispatch ahead of its use.

    Args:
      inputs: yields this process's part of each dispatch, numpy [k, n, ...] or dicts of such.
      devices: of the run.
    """

    def put(array):
        if len(devices) == 1:
            return jax.device_put(array, devices[0])
        k, n, *rest = array.shape
        shares = np.moveaxis(array.reshape(k, len(own(devices)), -1, *rest), 1, 0)
        return jax.device_put(shares, _sharding(devices, AXIS))

    placed = (jax.tree.map(put, arrays) for arrays in inputs)
    yield from (first for first, _ in itertools.pairwise(itertools.chain(placed, [None])))


def place_state(state, devices):
    """Returns the first process's state on every device, as a `steps_program` takes it."""
    return jax.device_put(hosts.broadcast(state), _everywhere(devices))


def own(devices):
    """Returns those of `devices` that belong to this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def _everywhere(devices):
    return devices[0] if len(devices) == 1 else _sharding(devices)


def _sharding(devices, *axes):
    """Over this process's devices: `pmap` takes and returns every process's own arrays."""
    return jax.NamedSharding(jax.sharding.Mesh(np.array(own(devices)), (AXIS,)), jax.P(*axes))
