"""The only file that knows compilation, devices, donation and the loop over steps on the device.

With one device a step is plain `jax.jit`; with several it is `jax.pmap`: batch sharded, state and
data replicated, and the same numbers come out. Several steps make one dispatch, so that the
accelerator never waits for Python.

`devices` are those of all processes of the run, in the same order everywhere. Each process has a
copy of the state and of the data on its own, and feeds them its own part of every batch.
"""

import functools
import math
from collections.abc import Iterator

import jax
import numpy as np

from reweight_jax.data.splits import Examples
from reweight_jax.errors import UserError
from reweight_jax.train import hosts as processes
from reweight_jax.train.step import eval_step

AXIS = "batch"
MAX_AUTO_STEPS_PER_DISPATCH = 25


def all_devices() -> list[jax.Device]:
    """The devices of all processes; raises UserError where one has more of them than another."""
    if processes.count() == 1:
        return jax.local_devices()
    # One process after the other, which `jax.devices` does not promise.
    groups = [jax.local_devices(i) for i in range(processes.count())]
    numbers = [len(group) for group in groups]
    if len(set(numbers)) > 1:
        raise UserError(f"the processes have {numbers} devices; each must have as many")
    return [device for group in groups for device in group]


def own_part(size: int, devices) -> slice:
    """Which positions of a batch of `size` fall to this process; `size` divides by the devices."""
    share = size // len(devices)
    first = devices.index(_own(devices)[0])
    return slice(first * share, (first + len(_own(devices))) * share)


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
    if _is_cpu(devices[0]):
        return 1
    return max(k for k in range(1, MAX_AUTO_STEPS_PER_DISPATCH + 1) if common % k == 0)


def compile_train_steps(step, train: Examples, clean: Examples | None, devices, num_seeds=1):
    """Puts the data on the devices and compiles a loop of training steps over them.

    Args:
      step: (state, batch, clean_batch, fresh=...) -> (state, metrics),
        `reweight_jax.step.train_step` with its other keywords bound; its axis_name must be
        `axis_name(devices)`.
      train: training set, resident on every device from here on; of a lazy one the labels alone.
      clean: clean set, likewise; None where the method needs none.
      devices: of the run.
      num_seeds: S, above 1 to train S states at once. They, the sets (which must be in memory) and
        the rows below then have one more leading axis [S], and the metrics a second one.

    Returns:
      run(state, rows [k, n], clean_rows [k, m] or None, image=None, fresh=None) ->
      (state, metrics, each with a leading k).
      image: of a lazy training set, that of the rows, as `put_ahead` yields it.
      fresh: k bools, at which steps a clean gradient is computed; None: at all of them.
      Of several processes each gives its own part of the rows, and the whole of the clean ones.
      The state is donated. k and n must not change if it is to compile once, nor on a CPU `fresh`.
      On several devices n must be a multiple of their number; a clean batch that is not goes whole
      to every device, which gives the same gradient (with dropout, but for its masks).
    """
    data = (_resident(train), None if clean is None else _resident(clean))
    on_cpu = _is_cpu(devices[0])

    def run(state, data, rows, clean_rows, image, *, fresh, shared=False, clean_shared=False):
        """`shared`: whether the rows are this device's share of a batch."""
        train_data, clean_data = data

        def body(state, step_rows):
            rows, clean_rows, image, fresh = step_rows
            batch = _take(train_data, rows, shared)
            if image is not None:
                batch |= {"image": image}
            clean_batch = None
            if clean_rows is not None:
                clean_batch = _take(clean_data, clean_rows, clean_shared)
            return step(state, batch, clean_batch, fresh=True if fresh is None else fresh)

        if on_cpu:
            return _unrolled_scan(body, state, (rows, clean_rows, image), fresh)
        return jax.lax.scan(body, state, (rows, clean_rows, image, fresh))

    if num_seeds > 1:
        run = _over_seeds(run, num_seeds, on_cpu)

    if len(devices) == 1:
        data = jax.device_put(data, devices[0])
        compiled = jax.jit(run, donate_argnums=0, static_argnames="fresh" if on_cpu else ())

        def run_on_one(state, rows, clean_rows, image=None, fresh=None):
            fresh = _flags(fresh, rows.shape[-2], on_cpu)
            return compiled(state, data, rows, clean_rows, image, fresh=fresh)

        return run_on_one

    data = jax.device_put(data, _replicated(devices))
    num_own = len(_own(devices))

    @functools.cache
    def compile_for(rows_axis, clean_axis, static_fresh):
        shared = {"shared": True, "clean_shared": clean_axis is not None}

        def run_share(state, data, rows, clean_rows, image, fresh):
            fresh = static_fresh if on_cpu else fresh
            return run(state, data, rows, clean_rows, image, fresh=fresh, **shared)

        return jax.pmap(
            run_share,
            axis_name=AXIS,
            in_axes=(None, None, rows_axis, clean_axis, 1, None),
            out_axes=(None, None),
            donate_argnums=0,
            devices=devices,
        )

    def run_on_all(state, rows, clean_rows, image=None, fresh=None):
        fresh = _flags(fresh, rows.shape[-2], on_cpu)
        static_fresh, fresh = (fresh, None) if on_cpu else (None, fresh)
        axis, clean_axis = rows.ndim - 1, None
        if clean_rows is not None and clean_rows.shape[-1] % len(devices) == 0:
            own = own_part(clean_rows.shape[-1], devices)
            clean_rows, clean_axis = _shard(clean_rows[..., own], num_own, axis), axis
        key, rows = state.key, _shard(rows, num_own, axis)
        run_all = compile_for(axis, clean_axis, static_fresh)
        state, metrics = run_all(state, data, rows, clean_rows, image, fresh)
        if processes.count() > 1:
            # `pmap` takes a key there by way of the host, which would have to wait for the device;
            # the one that came in is the same, and on the host already.
            state = state.replace(key=key)
        return state, metrics

    return run_on_all


def stack(trees: list):
    """Puts pytrees of S seeds together, each array with a leading [S]; that of one as it is."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *trees)


def of_seed(tree, index: int, num_seeds: int):
    """Takes the pytree of one seed out of what `stack` made of `num_seeds`."""
    return tree if num_seeds == 1 else jax.tree.map(lambda leaf: leaf[index], tree)


def put_ahead(images: Iterator[np.ndarray], devices) -> Iterator[jax.Array]:
    """Yields each of `images`, uint8 [k, n, H, W, C], on this process's devices, shared out over n.

    Before one is yielded the next is on its way, so that it is there when its steps begin.
    """

    def put(image):
        if len(devices) == 1:
            return jax.device_put(image, devices[0])
        image = _shard(image, len(_own(devices)), 1)
        return jax.device_put(image, _over_own(devices, None, AXIS))

    images = map(put, images)
    ahead = next(images)
    for image in images:
        yield ahead
        ahead = image
    yield ahead


def compile_predict(model, batch_size: int, devices):
    """Returns predict(params, model_state, image uint8 [N, H, W, C]) -> logits [N, K] in numpy.

    Any N: the last batch is padded, and what is computed on padding is cut off. On several devices
    each takes its share of every batch; the logits go to every process, all the same ones.
    """
    step = functools.partial(eval_step, model=model)
    batch_size = -(-batch_size // len(devices)) * len(devices)
    if len(devices) == 1:
        compiled = jax.jit(step)
    else:
        compiled = jax.pmap(
            lambda *arguments: jax.lax.all_gather(step(*arguments), AXIS),
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            devices=devices,
        )

    def predict(params, model_state, image):
        logits = []
        for start in range(0, len(image), batch_size):
            part = image[start : start + batch_size]
            padding = [(0, batch_size - len(part))] + [(0, 0)] * (part.ndim - 1)
            part = np.pad(part, padding)
            if len(devices) > 1:
                part = part[own_part(batch_size, devices)]
                part = part.reshape(len(_own(devices)), -1, *part.shape[1:])
            logits.append(compiled(params, model_state, part))
        logits = [np.asarray(part).reshape(batch_size, -1) for part in logits]
        return np.concatenate(logits)[: len(image)]

    return predict


def place_state(state, devices):
    """Puts a state, the first process's, where `compile_train_steps` wants it: on every device."""
    if processes.count() > 1:
        impl = jax.random.key_impl(state.key)  # a typed key is no array to send
        state = processes.broadcast(state.replace(key=jax.random.key_data(state.key)))
        state = state.replace(key=jax.random.wrap_key_data(state.key, impl=impl))
    return jax.device_put(state, devices[0] if len(devices) == 1 else _replicated(devices))


def check_divisible(batch_size: int, devices) -> None:
    """Raises UserError where the training batch cannot be shared out evenly."""
    if batch_size % len(devices):
        raise UserError(
            f"config.batch_size: {batch_size} must be divisible by the {len(devices)} devices"
        )


def _is_cpu(device) -> bool:
    """Whether programs are written as a CPU wants them: without loops and conditions."""
    return device.platform == "cpu"


def _flags(fresh, num_steps, on_cpu):
    """A CPU's program has the flags in it, an accelerator's takes them as an array, or None."""
    if on_cpu:
        return fresh or (True,) * num_steps
    return None if fresh is None else np.array(fresh)


def _unrolled_scan(body, carry, xs, flags):
    """`jax.lax.scan` of (*xs, flags) without a loop in the program; the flags are Python's.

    On a CPU, XLA brings only the convolutions outside a loop or a condition into the form that its
    fast kernels take: inside a loop, even of one turn, a LeNet step took 450 ms instead of 25, and
    behind a condition a ResNet-32 step 41 s instead of 2.2 (jax 0.10).
    """
    results = []
    for i, flag in enumerate(flags):
        carry, result = body(carry, (*jax.tree.map(lambda x: x[i], xs), flag))  # noqa: B023
        results.append(result)
    return carry, jax.tree.map(lambda *parts: jax.numpy.stack(parts), *results)


def _over_seeds(run, num_seeds, on_cpu):
    """`run` for S states at once: `jax.vmap` of it.

    On a CPU one seed after the other in one program: XLA's kernels for convolutions whose filters
    differ along the batch take four times as long there as S single steps.
    """

    def run_one(state, data, rows, clean_rows, image, settings):
        return run(state, data, rows, clean_rows, image, **settings)

    def run_vmapped(*arguments, **settings):
        one = functools.partial(run_one, settings=settings)
        return jax.vmap(one, out_axes=(0, 1))(*arguments)

    def run_in_turn(*arguments, **settings):
        results = [
            run_one(*jax.tree.map(lambda x: x[i], arguments), settings)  # noqa: B023
            for i in range(num_seeds)
        ]
        states, metrics = zip(*results, strict=True)
        return stack(states), jax.tree.map(lambda *m: jax.numpy.stack(m, 1), *metrics)

    return run_in_turn if on_cpu else run_vmapped


def _own(devices):
    """Those of `devices` that belong to this process."""
    return [device for device in devices if device.process_index == jax.process_index()]


def _replicated(devices):
    """One copy for each device of this process: `pmap` takes and returns every process's own."""
    return _over_own(devices)


def _over_own(devices, *axes):
    return jax.NamedSharding(jax.sharding.Mesh(np.array(_own(devices)), (AXIS,)), jax.P(*axes))


def _resident(examples):
    """What stays on the devices: of a lazy set, the labels."""
    image = {} if examples.is_lazy else {"image": examples.image}
    return {**image, "label": examples.label}


def _take(data, rows, shared):
    """The examples of a batch, or of this device's share of it, and their place in the whole."""
    first = len(rows) * jax.lax.axis_index(AXIS) if shared else 0
    place = first + jax.numpy.arange(len(rows))
    return jax.tree.map(lambda array: array[rows], data) | {"row": rows, "place": place}


def _shard(array, num_devices, axis):
    """[..., n, ...] -> [..., devices, n / devices, ...]."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    return array.reshape(*before, num_devices, -1, *after)
