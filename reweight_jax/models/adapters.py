"""One form for all models: a pair of pure functions, made from Flax linen or nnx modules."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from reweight_jax.models.dropout import drop

# Arguments by which a module's __call__ is told about training, and their value in training.
_FLAGS = {"train": True, "training": True, "is_training": True}
_FLAGS |= {"deterministic": False, "use_running_average": False}
# Standardised inputs are clipped to it: a nearly constant column has values of 30 deviations and
# more. It is not enough for every table at the default learning rate; a lower one is (0.005).
LARGEST_DEVIATION = 5.0
ROWS_AT_ONCE = 10_000  # of a table, copied as float64


class Model(NamedTuple):
    """A model as two pure functions, which can be jitted and differentiated.

    Attributes:
      init: (key, inputs) -> (params, model_state): pytrees of new arrays. model_state has what
        else the model keeps (batch statistics), {} if there is nothing.
      apply: (params, model_state, inputs, train=, key=) -> (outputs, model_state): outputs are
        float32 [n, K]. `key` decides all random numbers; it may be None if `train` is False, and
        model_state is then returned unchanged.
      given: whether `init` only copies arrays that are there, such as pretrained ones. It is then
        not compiled: they would be constants of a program.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[jax.Array, Any]]
    given: bool = False


def as_model(model, *, num_outputs: int | None = None, axis_name: str | None = None) -> Model:
    """Returns the `Model` of a Flax module, or of two functions.

    Args:
      model: one of

        - a Flax linen module. It is called as module(inputs), with train=, training=, is_training=,
          deterministic= or use_running_average= if `__call__` names one of these. Collections
          other than "params" are its model_state. Random numbers of any name come from the key.
        - a Flax nnx module. `__call__` gets the same arguments, and rngs= if it names that one.
          `init` returns copies of the parameters that the module has, not new ones, and the
          module never changes. Variables other than `nnx.Param` are its model_state, except for
          its random streams, which each call seeds from the key.
        - a `Model`, or any pair (init, apply) of such functions.

      num_outputs: K, which the outputs must have; None: any. Outputs [n] are taken as [n, 1].
      axis_name: device axis over which a batch is split, or None. BatchNorm layers that name no
        axis average over it, and dropout layers draw the masks that one device would draw. A pair
        of functions has to do this itself.

    Raises ValueError for anything else, and, when it is called, for outputs that are not [n, K].
    """
    given = isinstance(model, nnx.Module)
    if isinstance(model, nn.Module):
        init, apply = _from_linen(model, axis_name)
    elif isinstance(model, nnx.Module):
        init, apply = _from_nnx(model, axis_name)
    elif isinstance(model, Model):
        init, apply, given = model
    elif isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        init, apply = model
    else:
        is_class = isinstance(model, type)
        name = f"the class {model.__name__}" if is_class else type(model).__name__
        raise ValueError(
            f"model: {name} is not a Flax linen or nnx module (an instance), nor a pair of "
            "functions (init, apply)"
        )

    def checked_apply(params, model_state, inputs, *, train, key=None):
        outputs, new_state = apply(params, model_state, inputs, train=train, key=key)
        outputs = _checked(outputs, len(jax.tree.leaves(inputs)[0]), num_outputs)
        return outputs, new_state if train else model_state

    return Model(init, checked_apply, given)


def _checked(outputs, n, num_outputs):
    shape = getattr(outputs, "shape", None)
    if shape == (n,) and num_outputs in (None, 1):
        outputs = outputs[:, None]
    elif shape is None or len(shape) != 2 or shape[0] != n or num_outputs not in (None, shape[1]):
        what = type(outputs).__name__ if shape is None else f"of shape {shape}"
        wanted = "K" if num_outputs is None else num_outputs
        raise ValueError(f"model: outputs {what} for {n} inputs; must be [{n}, {wanted}]")
    return outputs.astype(jnp.float32)


def _flags(module, train: bool) -> dict[str, bool]:
    """Returns the arguments of `__call__` that tell a module whether it is trained."""
    names = inspect.signature(type(module).__call__).parameters
    return {name: value == train for name, value in _FLAGS.items() if name in names}


def scale_inputs(inputs):
    """Returns an array or a dict of arrays as models take them: uint8 as float32 in 0..1."""

    def scale(x):
        return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x

    return jax.tree.map(scale, inputs)


def with_matmul_precision(model: Model, precision: str) -> Model:
    """Returns `model` with its float32 products in `precision`, derivatives included.

    `precision` is a name that `jax.default_matmul_precision` takes; "default" returns `model`. It
    does not change the backward rule of a `jax.custom_vjp`.
    """
    if precision == "default":
        return model

    def apply(*arguments, **options):
        with jax.default_matmul_precision(precision):
            return model.apply(*arguments, **options)

    return model._replace(apply=apply)


def mean_and_deviation(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of each column of floats [N, D], float64 [D].

    A float32 sum of many rows loses digits. The deviation of a constant column is exactly 0.
    """
    mean = np.mean(table, axis=0, dtype=np.float64)
    parts = range(0, len(table), ROWS_AT_ONCE)
    squares = (np.sum((table[i : i + ROWS_AT_ONCE] - mean) ** 2, axis=0) for i in parts)
    deviation = np.sqrt(sum(squares) / len(table))
    return mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 0.0)


def standardized(model: Model, mean: np.ndarray, deviation: np.ndarray) -> Model:
    """Returns `model` on (inputs - mean) / deviation, clipped, for float inputs [N, D].

    `mean` and `deviation` [D] become part of the model_state, so that a checkpoint has them. A
    deviation of 0 counts as 1. Raises ValueError if their shapes are not [D].
    """
    mean, deviation = np.asarray(mean, np.float32), np.asarray(deviation, np.float32)
    if mean.ndim != 1 or mean.shape != deviation.shape:
        raise ValueError(f"mean {mean.shape}, deviation {deviation.shape}; must both be [D]")
    deviation = np.where(deviation == 0, np.float32(1), deviation)

    def scale(statistics, inputs):
        scaled = (inputs - statistics["mean"][None]) / statistics["deviation"][None]
        return jnp.clip(scaled, -LARGEST_DEVIATION, LARGEST_DEVIATION)

    def init(key, inputs):
        statistics = {"mean": jnp.array(mean), "deviation": jnp.array(deviation)}
        params, model_state = model.init(key, scale(statistics, inputs))
        return params, {"inputs": statistics, "model": model_state}

    def apply(params, model_state, inputs, *, train, key=None):
        inputs = scale(model_state["inputs"], inputs)
        outputs, inner = model.apply(params, model_state["model"], inputs, train=train, key=key)
        return outputs, model_state | {"model": inner}

    return Model(init, apply, model.given)


def _from_linen(module, axis_name):
    def init(key, inputs):
        variables = dict(module.init(key, inputs, **_flags(module, False)))
        return variables.pop("params", {}), variables

    def apply(params, model_state, inputs, *, train, key):
        variables = {"params": params, **model_state}
        if not train:
            return module.apply(variables, inputs, **_flags(module, False)), model_state
        with nn.intercept_methods(_interceptor(axis_name)):
            return module.apply(
                variables,
                inputs,
                **_flags(module, True),
                # Flax takes "params" for a name that is not there: any random layer finds a key.
                rngs={"dropout": key, "params": jax.random.fold_in(key, 1)},
                mutable=list(model_state),
            )

    return init, apply


def _interceptor(axis_name):
    """Makes layers inside a linen module compute what one device would compute."""

    def intercept(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if type(module) is nn.Dropout:
            return _linen_dropout(module, axis_name, *args, **kwargs)
        if not isinstance(module, nn.BatchNorm) or module.axis_name is not None:
            return call(*args, **kwargs)
        object.__setattr__(module, "axis_name", axis_name)  # a module's fields are frozen
        try:
            return call(*args, **kwargs)
        finally:
            object.__setattr__(module, "axis_name", None)

    return intercept


def _linen_dropout(module, axis_name, inputs, deterministic=None, rng=None):
    deterministic = nn.merge_param("deterministic", module.deterministic, deterministic)
    if deterministic or module.rate == 0:
        return inputs
    key = module.make_rng(module.rng_collection) if rng is None else rng
    return drop(inputs, module.rate, key, axis_name, module.broadcast_dims)


class _NnxDropout(nnx.Dropout):
    """An nnx.Dropout whose masks do not depend on how many devices share a batch."""

    def __call__(self, inputs, *, deterministic=None, rngs=None):
        if deterministic is None:
            deterministic = self.deterministic
        if deterministic or self.rate == 0:
            return inputs
        rngs = self.rngs if rngs is None else rngs
        if isinstance(rngs, nnx.Rngs):
            rngs = rngs[self.rng_collection]
        key = rngs if isinstance(rngs, jax.Array) else rngs()
        return drop(inputs, self.rate, key, self.axis_name, self.broadcast_dims)


def _from_nnx(module, axis_name):
    module = nnx.clone(module)  # the user's own is not touched
    for _, layer in nnx.iter_graph(module):
        if isinstance(layer, nnx.BatchNorm) and layer.axis_name is None:
            layer.axis_name = axis_name
        elif type(layer) is nnx.Dropout:
            layer.__class__, layer.axis_name = _NnxDropout, axis_name
    graphs = {}
    for train in (False, True):
        module.train() if train else module.eval()
        graphs[train], *parts = nnx.split(module, nnx.Param, nnx.RngState, ...)
    params, streams, rest = (list(nnx.to_flat_state(part)) for part in parts)
    # On the host: arrays of a device could be donated, or be on other devices than the run's.
    first = [jax.tree.map(np.asarray, _to_dict(part)) for part in (params, rest)]

    def init(key, inputs):
        return tuple(jax.tree.map(jnp.array, part) for part in first)

    def apply(new_params, model_state, inputs, *, train, key):
        key = jax.random.key(0) if key is None else key
        arguments = _flags(module, train)
        if "rngs" in inspect.signature(type(module).__call__).parameters:
            arguments["rngs"] = nnx.Rngs(jax.random.fold_in(key, len(streams)))
        variables = _with_values(params, new_params) + _with_values(rest, model_state)
        merged = nnx.merge(graphs[train], nnx.from_flat_state(variables + _seeded(streams, key)))
        outputs = merged(inputs, **arguments)
        nnx.pop(merged, nnx.Intermediate)  # what it sowed
        new_state = nnx.state(merged, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))
        return outputs, _to_dict(nnx.to_flat_state(new_state))

    return init, apply


def _to_dict(variables):
    """Returns [(path, variable)] as a nested dict of arrays, with strings as keys."""
    return traverse_util.unflatten_dict(
        {tuple(map(str, path)): variable.get_value() for path, variable in variables}
    )


def _with_values(variables, values):
    """The inverse of `_to_dict`: returns [(path, variable)] with the values in `values`."""
    flat = traverse_util.flatten_dict(values)
    return [(path, variable.replace(flat[tuple(map(str, path))])) for path, variable in variables]


def _seeded(streams, key):
    """Returns [(path, variable)] of random streams, each started from a key of its own."""
    seeded = []
    for i, (path, variable) in enumerate(streams):
        if isinstance(variable, nnx.RngKey):
            value = jax.random.split(jax.random.fold_in(key, i), variable.shape)
        else:
            value = jnp.zeros(variable.shape, jnp.uint32)  # numbers drawn so far
        seeded.append((path, variable.replace(value)))
    return seeded
