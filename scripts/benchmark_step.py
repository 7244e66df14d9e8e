"""Times one training step of LeNet (n=100, m=10): plain, reweighting by lookahead and by jvp.

    python scripts/benchmark_step.py [--rounds=40] [--json=FILE]

The three are compiled programs of one process and take turns, so that a slower or busier machine
changes all of them alike: quote the ratios. `reduce_window` rows are the same steps with Flax's
`max_pool` in place of reweight_jax.models.pooling.
"""

import functools
import json
import pathlib
import statistics
import time
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
import optax
from absl import flags
from ml_collections import ConfigDict

from reweight_jax import cli, report
from reweight_jax.data import Examples
from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS
from reweight_jax.models import lenet
from reweight_jax.state import create_optimizer, create_train_state
from reweight_jax.step import augmentation, train_step

_ROUNDS = flags.DEFINE_integer("rounds", 40, "Interleaved timings of each step.", lower_bound=3)
_JSON = flags.DEFINE_string("json", None, "File to write the numbers to.")

BATCH, CLEAN = 100, 10
STEPS = {"plain": ("baseline", "jvp"), "jvp": ("reweight", "jvp")}
STEPS["lookahead"] = ("reweight", "lookahead")
POOLS = {
    "selects": lenet.max_pool_3x3,
    "reduce_window": functools.partial(
        nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME"
    ),
}


def compile_step(method_name: str, epsilon_method: str, pool, train: Examples):
    """Returns (compiled step, its arguments) for LeNet on the first rows of `train`."""
    method = METHODS[method_name]
    config = ConfigDict({"momentum": 0.9, "weight_decay": 0.0})
    tx = create_optimizer(config, optax.constant_schedule(1e-3))
    model = lenet.LeNet(num_classes=2)
    with mock.patch.object(lenet, "max_pool_3x3", pool):
        state = create_train_state(jax.random.key(0), model, tx, method, config, train, 2)
        rows = np.arange(BATCH, dtype=np.int32)
        batch = {
            "image": train.image[:BATCH],
            "label": train.label[:BATCH],
            "row": rows,
            "place": rows,
        }
        clean = {
            "image": train.image[BATCH:],
            "label": train.label[BATCH:],
            "row": rows[:CLEAN],
            "place": rows[:CLEAN],
        }
        step = functools.partial(
            train_step,
            model=model,
            method=method,
            tx=tx,
            epsilon_method=epsilon_method,
            augment=augmentation(0, False),
        )
        arguments = jax.device_put((state, batch, clean if method.needs_clean else None))
        return jax.jit(step).lower(*arguments).compile(), arguments


def measure(programs: dict, rounds: int) -> dict:
    """Runs the programs in turn; returns {name: {median, low, high}} in milliseconds.

    low and high are the quartiles. Two rounds go before, uncounted.
    """
    times = {name: [] for name in programs}
    for _ in range(rounds + 2):
        for name, (program, arguments) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times[name].append(1e3 * (time.perf_counter() - start))
    rows = {}
    for name, all_times in times.items():
        low, median, high = statistics.quantiles(all_times[2:], n=4)
        rows[name] = {"median": round(median, 2), "low": round(low, 2), "high": round(high, 2)}
    return rows


def main(argv):
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options are written --name=value")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, BATCH + CLEAN).astype(np.int32)
    images = rng.integers(0, 256, (BATCH + CLEAN, 28, 28, 1)).astype(np.uint8)
    train = Examples(images, labels, labels, np.arange(BATCH + CLEAN))
    programs = {
        f"{pool_name}/{step_name}": compile_step(*STEPS[step_name], pool, train)
        for pool_name, pool in POOLS.items()
        for step_name in STEPS
    }
    rows = measure(programs, _ROUNDS.value)
    for name, (program, _) in programs.items():
        pool_name = name.partition("/")[0]
        rows[name]["ratio"] = round(rows[name]["median"] / rows[f"{pool_name}/plain"]["median"], 3)
        rows[name]["gflop"] = round((program.cost_analysis() or {}).get("flops", 0) / 1e9, 2)
    print(f"{'LeNet n=100 m=10':26} {'ms':>7} {'quartiles':>15} {'x plain':>8} {'GFLOP':>7}")
    for name, row in rows.items():
        spread = f"{row['low']:.1f}-{row['high']:.1f}"
        print(
            f"{name:26} {row['median']:7.1f} {spread:>15} {row['ratio']:8.2f} {row['gflop']:7.2f}"
        )
    if _JSON.value:
        device = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
        result = {"device": device, "jax": jax.__version__, "rounds": _ROUNDS.value, "ms": rows}
        report.write_atomically(pathlib.Path(_JSON.value), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
