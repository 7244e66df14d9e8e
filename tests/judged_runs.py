"""Runs whose steps can be taken in numpy: affine models, SGD with momentum, three tasks."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax
from whole_runs import ONE_DEVICE

from reweight_jax.configs import default
from reweight_jax.data.batches import batch_rows, shuffled
from reweight_jax.data.examples import Data, Examples, Splits
from reweight_jax.models import Model
from reweight_jax.train import devices as on_devices
from reweight_jax.train import loop
from reweight_jax.train.config import make_experiment
from reweight_jax.train.dispatch import dispatches
from reweight_jax.train.state import create_train_state

CLOSE = {"rtol": 1e-3, "atol": 1e-4}
NUM_OUTPUTS = {"classification": 3, "multi_label": 3, "regression": 2}
all_tasks = tuple(NUM_OUTPUTS)


def examples(task, size, seed, wrong=0.0) -> Examples:
    """Linear targets of 4 features; a share of the labels is replaced by other ones."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 4)).astype(np.float32)
    kernel = np.random.default_rng(99).normal(size=(4, NUM_OUTPUTS[task]))
    z, is_wrong = x @ kernel + 0.3 * rng.normal(size=(size, len(kernel[0]))), rng.random(size)
    is_wrong = is_wrong < wrong
    if task == "classification":
        label = z.argmax(1)
        label = np.where(is_wrong, (label + 1) % 3, label).astype(np.int32)
    elif task == "multi_label":
        label = ((z > 0) ^ is_wrong[:, None]).astype(np.int32)
        label[rng.random(label.shape) < 0.2] = -1
    else:
        label = (50 + 7 * (z + 6 * is_wrong[:, None])).astype(np.float32)
    return Examples(x, label, None, np.arange(size) + 1_000 * seed)


def first_weights(num_outputs):
    """The parameters that every run begins with: a kernel of 4 features, and a bias below it."""
    return np.random.default_rng(7).normal(scale=0.3, size=(5, num_outputs)).astype(np.float32)


def affine_model(num_outputs) -> Model:
    def init(key, inputs):
        return {"w": jnp.asarray(first_weights(num_outputs))}, {}

    def apply(params, model_state, inputs, *, train, key):
        return inputs @ params["w"][:-1] + params["w"][-1:], model_state

    return Model(init, apply)


def experiment(splits, task="classification", model=None, devices=ONE_DEVICE, **fields):
    """An experiment of 9 steps of 8 examples, of an affine model if no other is given."""
    config = default.get_config()
    config.task, config.batch_size, config.num_steps, config.seed = task, 8, 9, 3
    config.clean_batch_size, config.learning_rate, config.momentum = 6, 0.2, 0.9
    config.model.name, config.data.clean_in_train = "own", "never"
    config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 3
    config.update_from_flattened_dict(fields)
    num_outputs = NUM_OUTPUTS.get(task, 2)
    classes = tuple(range(num_outputs)) if task in ("classification", "multi_label") else ()
    data = Data(Splits(*splits), classes, num_outputs)
    return make_experiment(config, data, model or affine_model(num_outputs), devices)


def states(made, phase=0, state=None):
    """Yields (steps taken, state on the host, metrics) after each dispatch of a phase."""
    phase = made.phases()[phase]
    state = create_train_state(made) if state is None else state
    state = on_devices.place_state(state, made.devices)
    with contextlib.ExitStack() as stack:
        for step, dispatch in dispatches(made, phase, phase.start, state, stack):
            state, metrics = dispatch(state)
            yield step, jax.device_get(state), jax.device_get(metrics)


def run(splits, workdir, task="classification", **fields) -> dict:
    """The result of a whole run of `experiment`."""
    made = experiment(splits, task, **fields)
    return loop.train(made, workdir, progress=False, draw=False)


def npz(path) -> dict:
    with np.load(path) as arrays:
        return dict(arrays)


def last_state(made):
    return [state for _, state, _ in states(made)][-1]


def cosine(step):
    """The learning rate of `experiment` along a cosine."""
    return 0.2 * (1 + np.cos(np.pi * step / 9)) / 2


def rows_of(examples, step, seed=3, size=8, stream="train"):
    return batch_rows(shuffled(examples.label, seed, stream), step, 1, size)[0]


class Replay:
    """An affine model that is trained by SGD with momentum, in float64. `w`: parameters [5, K]."""

    def __init__(self, task, train, momentum=0.9):
        self.task, self.momentum, self.num_outputs = task, momentum, NUM_OUTPUTS[task]
        self.mean, self.deviation = np.zeros(1), np.ones(1)
        if task == "regression":
            targets = train.label.astype(np.float64)
            self.mean, self.deviation = targets.mean(0), targets.std(0)
        self.afresh()

    def afresh(self):
        self.w = first_weights(self.num_outputs).astype(np.float64)
        self.velocity = np.zeros_like(self.w)
        return self

    def outputs(self, x):
        return x @ self.w[:-1] + self.w[-1]

    def residuals(self, x, y):
        """The derivative of each example's loss by its outputs [n, K]."""
        z = self.outputs(x)
        if self.task == "classification":
            return softmax(z, axis=1) - np.eye(self.num_outputs)[y]
        if self.task == "multi_label":
            known = y >= 0
            return known * (expit(z) - y) / np.maximum(known.sum(1, keepdims=True), 1)
        return z - (y - self.mean) / self.deviation

    def margins(self, x, y):
        z = self.outputs(x)
        if self.task == "classification":
            log_p, is_label = log_softmax(z, axis=1), np.eye(self.num_outputs, dtype=bool)[y]
            return log_p[is_label] - np.where(is_label, -np.inf, log_p).max(1)
        if self.task == "multi_label":
            return np.select([y == 1, y == 0], [z, -z], 0.0)
        return -np.linalg.norm(self.residuals(x, y), axis=1)

    def beliefs(self, x, y):
        """What is remembered of each example."""
        values, z = {"margin": self.margins(x, y)}, self.outputs(x)
        if self.task == "classification":
            values["log_probability"] = log_softmax(z, axis=1)
        if self.task == "regression":
            values["prediction"] = z * self.deviation + self.mean
        return values

    def loss(self, x, y):
        z = self.outputs(x)
        if self.task == "classification":
            return -np.mean(log_softmax(z, axis=1)[np.arange(len(y)), y])
        if self.task == "multi_label":
            losses, known = -log_expit(self.margins(x, y)) * (y >= 0), (y >= 0).sum(1)
            return np.mean(losses[known > 0].sum(1) / known[known > 0])
        return np.mean(0.5 * np.sum(self.residuals(x, y) ** 2, axis=1))

    def products(self, x, y, clean):
        """The inner product of each example's gradient with that of the mean clean loss, [n]."""
        with_one, clean_one = (np.c_[a, np.ones(len(a))] for a in (x, clean.inputs))
        clean_gradient = clean_one.T @ self.residuals(clean.inputs, clean.label) / clean.size
        return np.sum((with_one @ clean_gradient) * self.residuals(x, y), axis=1)

    def step(self, x, y, rate=0.2, weights=None):
        weights = np.full(len(x), 1 / len(x)) if weights is None else weights
        gradient = np.c_[x, np.ones(len(x))].T @ (weights[:, None] * self.residuals(x, y))
        self.velocity = self.momentum * self.velocity + gradient
        self.w = self.w - rate * self.velocity


class SmallNet(nn.Module):
    """Images, BatchNorm and dropout, and little to compile."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6, use_bias=False)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(3)(x)


def images(size, seed) -> Examples:
    """Pictures uint8 [size, 4, 4, 1] that are brighter for a larger class."""
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=size).astype(np.int32)
    image = rng.integers(0, 128, (size, 4, 4, 1)) + 60 * label[:, None, None, None]
    return Examples(image.astype(np.uint8), label, None, np.arange(size) + 1_000 * seed)


class Sums:
    """Sums over visits in numpy, and their means."""

    def __init__(self, size):
        self.visits, self.sums = np.zeros(size, int), {}

    def add(self, rows, values):
        for i, row in enumerate(rows):
            self.visits[row] += 1
            for name, value in values.items():
                shape = (len(self.visits), *np.shape(value)[1:])
                self.sums.setdefault(name, np.zeros(shape))[row] += value[i]

    def means(self):
        with np.errstate(invalid="ignore"):
            return {
                name: total / self.visits.reshape(-1, *[1] * (total.ndim - 1))
                for name, total in self.sums.items()
            }
