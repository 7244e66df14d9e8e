"""The only file that knows compilation, devices, donation and the loop over steps on the device.

With one device a step is plain `jax.jit`; with several it is `jax.pmap`: batch sharded, state and
data replicated, and the same numbers come out. Several steps make one dispatch, so that the
accelerator never waits for Python.
"""

import functools
import math
from collections.abc import Iterator

import jax
import numpy as np

from reweight_jax.data import Examples
from reweight_jax.errors import UserError
from reweight_jax.step import eval_step

AXIS = "batch"
MAX_AUTO_STEPS_PER_DISPATCH = 25


def axis_name(devices) -> str | None:
    """The name of the device axis: None on one device, where nothing is reduced."""
    return AXIS if len(devices) > 1 else None


def steps_per_dispatch(wanted: int, devices, *multiples: int) -> int:
    """Returns how many steps to run in one dispatch, a divisor of all `multiples`.

    `wanted` = 0 chooses: 1 on a CPU, where a dispatch costs nothing beside a step, elsewhere the
    largest divisor up to 25. Raises UserError where `wanted` divides not all of them.
    """
    common = math.gcd(*multiples)
    if wanted < 0 or (wanted and common % wanted):
        raise UserError(
            f"config.steps_per_dispatch: {wanted} must divide num_steps, finetune_steps, every "
            f"*_every_steps and the step resumed from (their common divisor is {common})"
        )
    if wanted:
        return wanted
    if devices[0].platform == "cpu":
        return 1
    return max(k for k in range(1, MAX_AUTO_STEPS_PER_DISPATCH + 1) if common % k == 0)


def compile_train_steps(step, train: Examples, clean: Examples | None, devices):
    """Puts the data on the devices and compiles a loop of training steps over them.

    Args:
      step: (state, batch, clean_batch) -> (state, metrics), `reweight_jax.step.train_step` with its
        keywords bound; its axis_name must be `axis_name(devices)`.
      train: training set, resident on every device from here on; of a lazy one the labels alone.
      clean: clean set, likewise; None where the method needs none.
      devices: the local devices to use.

    Returns:
      run(state, rows [k, n], clean_rows [k, m] or None, image) -> (state, metrics, each with a
      leading k). `image`, of a lazy training set: that of the rows, as `put_ahead` yields it. The
      state is donated. k and n must not change from call to call if it is to compile once.
      On several devices n must be a multiple of their number; a clean batch that is not goes whole
      to every device, which gives the same gradient (with dropout, but for its masks).
    """
    data = (_resident(train), None if clean is None else _resident(clean))

    def run(state, data, rows, clean_rows, image, *, shared=False, clean_shared=False):
        """`shared`: whether the rows are this device's share of a batch."""
        train_data, clean_data = data

        def body(state, step_rows):
            rows, clean_rows, image = step_rows
            batch = _take(train_data, rows, shared)
            if image is not None:
                batch |= {"image": image}
            clean_batch = None
            if clean_rows is not None:
                clean_batch = _take(clean_data, clean_rows, clean_shared)
            return step(state, batch, clean_batch)

        if devices[0].platform == "cpu":
            return _unrolled_scan(body, state, (rows, clean_rows, image))
        return jax.lax.scan(body, state, (rows, clean_rows, image))

    if len(devices) == 1:
        data = jax.device_put(data, devices[0])
        compiled = jax.jit(run, donate_argnums=0)
        return lambda state, rows, clean_rows, image=None: compiled(
            state, data, rows, clean_rows, image
        )

    data = jax.device_put(data, _replicated(devices))

    @functools.cache
    def compile_for(clean_axis):
        return jax.pmap(
            functools.partial(run, shared=True, clean_shared=clean_axis is not None),
            axis_name=AXIS,
            in_axes=(None, None, 1, clean_axis, 1),
            out_axes=(None, None),
            donate_argnums=0,
            devices=devices,
        )

    def run_on_all(state, rows, clean_rows, image=None):
        clean_axis = None
        if clean_rows is not None and clean_rows.shape[1] % len(devices) == 0:
            clean_rows, clean_axis = _shard(clean_rows, len(devices)), 1
        return compile_for(clean_axis)(state, data, _shard(rows, len(devices)), clean_rows, image)

    return run_on_all


def put_ahead(images: Iterator[np.ndarray], devices) -> Iterator[jax.Array]:
    """Yields each of `images`, uint8 [k, n, H, W, C], on the devices, shared out over n.

    Before one is yielded the next is on its way, so that it is there when its steps begin.
    """

    def put(image):
        if len(devices) == 1:
            return jax.device_put(image, devices[0])
        return jax.device_put(_shard(image, len(devices)), _over_devices(devices, None, AXIS))

    images = map(put, images)
    ahead = next(images)
    for image in images:
        yield ahead
        ahead = image
    yield ahead


def compile_predict(model, batch_size: int, devices):
    """Returns predict(params, model_state, image uint8 [N, H, W, C]) -> logits [N, K] in numpy.

    Any N: the last batch is padded, and what is computed on padding is cut off. On several devices
    each takes its share of every batch.
    """
    step = functools.partial(eval_step, model=model)
    batch_size = -(-batch_size // len(devices)) * len(devices)
    if len(devices) == 1:
        compiled = jax.jit(step)
    else:
        compiled = jax.pmap(
            step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=0, devices=devices
        )

    def predict(params, model_state, image):
        logits = []
        for start in range(0, len(image), batch_size):
            part = image[start : start + batch_size]
            padding = [(0, batch_size - len(part))] + [(0, 0)] * (part.ndim - 1)
            part = np.pad(part, padding)
            if len(devices) > 1:
                part = part.reshape(len(devices), -1, *part.shape[1:])
            logits.append(compiled(params, model_state, part))
        logits = [np.asarray(part).reshape(batch_size, -1) for part in logits]
        return np.concatenate(logits)[: len(image)]

    return predict


def place_state(state, devices):
    """Puts a state where `compile_train_steps` and orbax want it: one copy for every device."""
    return jax.device_put(state, devices[0] if len(devices) == 1 else _replicated(devices))


def check_divisible(batch_size: int, devices) -> None:
    """Raises UserError where the training batch cannot be shared out evenly."""
    if batch_size % len(devices):
        raise UserError(
            f"config.batch_size: {batch_size} must be divisible by the {len(devices)} devices"
        )


def _unrolled_scan(body, carry, xs):
    """`jax.lax.scan` without a loop in the program.

    On a CPU, XLA brings only the convolutions outside a loop into the form that its fast kernels
    take: inside one, even of one turn, a LeNet step took 450 ms instead of 25 (jax 0.10, 2 cores).
    """
    results = []
    for i in range(len(jax.tree.leaves(xs)[0])):
        carry, result = body(carry, jax.tree.map(lambda x: x[i], xs))  # noqa: B023, used at once
        results.append(result)
    return carry, jax.tree.map(lambda *parts: jax.numpy.stack(parts), *results)


def _replicated(devices):
    return _over_devices(devices)


def _over_devices(devices, *axes):
    return jax.NamedSharding(jax.sharding.Mesh(np.array(devices), (AXIS,)), jax.P(*axes))


def _resident(examples):
    """What stays on the devices: of a lazy set, the labels."""
    image = {} if examples.is_lazy else {"image": examples.image}
    return {**image, "label": examples.label}


def _take(data, rows, shared):
    """The examples of a batch, or of this device's share of it, and their place in the whole."""
    first = len(rows) * jax.lax.axis_index(AXIS) if shared else 0
    place = first + jax.numpy.arange(len(rows))
    return jax.tree.map(lambda array: array[rows], data) | {"row": rows, "place": place}


def _shard(rows, num_devices):
    """[k, n, ...] -> [k, devices, n / devices, ...]."""
    return rows.reshape(len(rows), num_devices, -1, *rows.shape[2:])
