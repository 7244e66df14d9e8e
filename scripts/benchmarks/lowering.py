"""What a run executes, for devices that need not be there: nothing is put on one."""

import functools
import math

import jax
import numpy as np

from reweight_jax.errors import UserError
from reweight_jax.train import devices as on_devices
from reweight_jax.train.config import Experiment
from reweight_jax.train.dispatch import step_of
from reweight_jax.train.resident import resident
from reweight_jax.train.selection import most_examples
from reweight_jax.train.state import create_train_state


def lower_dispatch(experiment: Experiment, num_steps: int):
    """Returns the lowered dispatch of `num_steps` steps of a run's first phase."""
    devices = experiment.devices
    state = _initial(experiment)
    program, arguments = dispatch(experiment, num_steps, state)
    sharding = jax.sharding.SingleDeviceSharding(devices[0]) if len(devices) == 1 else None
    return program.lower(*_abstract(arguments, sharding))


def dispatch(experiment: Experiment, num_steps: int, state):
    """Returns the dispatch as a function that has `lower`, and its arguments, on no device yet.

    The batches are the first examples, the next ones, and so on.
    """
    config, splits = experiment.config, experiment.splits
    options = {"inputs": True, "on_cpu": on_devices.on_cpu(experiment.devices)}
    if not config.data.resident:
        raise UserError("config.data.resident: False; only resident data can be compiled with")

    def rows_of(part, size):
        return np.resize(np.arange(part.size, dtype=np.int32), (num_steps, size))

    data = {"train": resident(splits.train, size=most_examples(experiment), **options)}
    rows, clean_rows = rows_of(splits.train, config.batch_size), None
    if "alignment" in experiment.remembered:  # the method needs the clean set, or it is observed
        data["clean"] = resident(splits.clean, **options)
        clean_rows = rows_of(splits.clean, min(config.clean_batch_size, splits.clean.size))
    index = np.arange(len(experiment.devices), dtype=np.int32)
    step = step_of(experiment, _main_phase(experiment))
    program = on_devices.steps_program(step, experiment.devices)
    return program, (state, data, rows, clean_rows, None, index)


def lower_on_mesh(experiment: Experiment, mesh: jax.sharding.Mesh):
    """Returns one lowered step under `jax.jit` on a mesh with the axes "data" and "model".

    The batches are split over "data"; parameters and the optimiser's state over both axes. The
    experiment is one of a single device: the compiler adds the collectives.
    """
    config, splits = experiment.config, experiment.splits
    state = _initial(experiment)
    whole = jax.NamedSharding(mesh, jax.P())
    shardings = jax.tree.map(lambda _: whole, state)
    shardings = shardings.replace(
        params=jax.tree.map(functools.partial(spread, mesh=mesh), state.params),
        opt_state=jax.tree.map(functools.partial(spread, mesh=mesh), state.opt_state),
    )

    def batch(examples, size):
        if size % mesh.shape["data"]:
            raise UserError(f"--mesh: {size} examples of a batch over {mesh.shape['data']} devices")
        rows = np.zeros(size, np.int32)
        inputs = jax.tree.map(lambda array: array[rows], examples.inputs)
        taken = {"inputs": inputs, "label": examples.label[rows], "row": rows, "place": rows}
        return _abstract(taken, jax.NamedSharding(mesh, jax.P("data")))

    clean_batch = None
    if "alignment" in experiment.remembered:
        clean_batch = batch(splits.clean, min(config.clean_batch_size, splits.clean.size))
    step = jax.jit(
        step_of(experiment, _main_phase(experiment)),
        donate_argnums=0,
        out_shardings=(shardings, whole),
    )
    state = jax.tree.map(_abstract, state, shardings)
    return step.lower(state, batch(splits.train, config.batch_size), clean_batch)


def _initial(experiment):
    read = experiment.method.host_input
    host_input = read(experiment.config) if read else None
    return jax.eval_shape(lambda: create_train_state(experiment, host_input))


def _main_phase(experiment):
    """The phase that trains with the method; a warm-up may precede it."""
    return next(phase for phase in experiment.phases() if phase.remembers)


def spread(leaf, mesh: jax.sharding.Mesh, axes: tuple[str, ...] = ("data", "model")):
    """Returns the sharding that splits the last dimension that divides over `axes`, if any does."""
    parts = math.prod(mesh.shape[axis] for axis in axes)
    dims = [dim for dim, size in enumerate(leaf.shape) if size % parts == 0]
    spec = [None] * leaf.ndim
    if dims:
        spec[dims[-1]] = axes
    return jax.NamedSharding(mesh, jax.P(*spec))


def _abstract(tree, sharding):
    """Returns the shapes of `tree` with a sharding, or none: then that is pmap's affair."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
