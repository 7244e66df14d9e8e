"""Measures what approximate epsilon gradients do to weights, accuracy and time.

    python scripts/benchmarks/approximations.py [--seeds=3] [--json=FILE]

On digits with 40% background noise (configs/cifar_background_flip.py:digits). Along one exact run
with clean batches of 25, the weights that each approximation would give in the same state from the
same batches, or from the same part of them: the mean of their Spearman rank correlations with the
exact weights ("another clean batch" is exact, and says what that is between two draws of the clean
batch). Then whole runs of each: test accuracy, mean and 95% interval. Last the time of a ResNet-8
step (n = m = 100), relative to exact.
"""

import functools
import json
import tempfile

import jax
import numpy as np
import programs as benchmark
from absl import flags
from scipy.stats import spearmanr

from reweight_jax import cli
from reweight_jax.data.batches import CLEAN_SEED, batch_rows, shuffled
from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS
from reweight_jax.models import create_model
from reweight_jax.records import report
from reweight_jax.train.loop import train_and_evaluate
from reweight_jax.train.run import load_splits
from reweight_jax.train.state import create_optimizer, create_train_state, learning_rate_schedule
from reweight_jax.train.step import augmentation, train_step

_SEEDS = flags.DEFINE_integer("seeds", 3, "Whole runs of each, at least 2; 0: none.", 0)
_STEPS = flags.DEFINE_integer("steps", 300, "Along which weights are compared.", 10)
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Turns of each step's timing.", 2)
_JSON = flags.DEFINE_string("json", None, "File to write the numbers to.")

# name -> fields of a config that differ from exact, for digits.
OPTIONS = {
    "exact": {},
    "clean gradient of 2 steps": {"clean_gradient_every": 2},
    "clean gradient of 5 steps": {"clean_gradient_every": 5},
    "clean gradient of 20 steps": {"clean_gradient_every": 20},
    "last block and output layer": {"epsilon_params": "Dense|Conv_2/|BatchNorm_2/"},
    "output layer alone": {"epsilon_params": "Dense"},
    "half the clean batch": {"clean_batch_size": 25},
    "a fifth of the clean batch": {"clean_batch_size": 10},
}
RESNET_LAST = "Dense|Conv_[56]/|BatchNorm_[56]/"  # of ResNet-8


def config_of(fields):
    from configs import cifar_background_flip  # cli.run has made configs/ importable

    config = cifar_background_flip.get_config("digits")
    config.update(fields)
    return config


def rank_correlations(num_steps: int) -> dict[str, float]:
    """Mean correlation of each option's weights with the exact ones, along an exact run."""
    config, method = config_of({}), METHODS["reweight"]
    splits = load_splits(config, method)
    model, tx = (
        create_model(config.model, 10, None),
        create_optimizer(config, learning_rate_schedule(config)),
    )

    def initial(options):
        arguments = (jax.random.key(0), model, tx, method, config_of(options), splits.train, 10)
        return create_train_state(*arguments)

    def compile_for(options):
        step = functools.partial(
            train_step,
            model=model,
            method=method,
            tx=tx,
            epsilon_method="jvp",
            epsilon_params=options.get("epsilon_params", ""),
            augment=augmentation(config.data.crop_padding, config.data.flip),
        )
        return jax.jit(step, static_argnames="fresh")

    def take(examples, rows):
        place = np.arange(len(rows))
        fields = {"image": examples.image[rows], "label": examples.label[rows]}
        return fields | {"row": rows, "place": place}

    others = {name: options for name, options in OPTIONS.items() if options}
    others["another clean batch"] = {}
    steps = {name: compile_for(options) for name, options in others.items()}
    kept = {name: initial(options).clean_gradient for name, options in others.items()}
    state, exact = initial({}), compile_for({})
    rows_of = method.sampler(splits.train.label, config.seed)
    clean_rows_of = shuffled(splits.clean.label, config.seed + CLEAN_SEED)
    found = {name: [] for name in others}
    for t in range(num_steps):
        rows = batch_rows(rows_of, t, 1, config.batch_size)[0]
        batch = take(splits.train, rows)
        two = batch_rows(clean_rows_of, 2 * t, 2, config.clean_batch_size // 2)
        clean_rows, other_rows = two  # halves of one epoch: different images
        new, _ = exact(state, batch, take(splits.clean, clean_rows), fresh=True)
        expected = np.asarray(new.history.last_weight)[rows]
        for name, options in others.items():
            mine = other_rows if name == "another clean batch" else clean_rows
            size = options.get("clean_batch_size", config.clean_batch_size)
            mine = mine[: len(clean_rows) * size // config.clean_batch_size]
            fresh = t % options.get("clean_gradient_every", 1) == 0
            begin = state.replace(clean_gradient=kept[name])
            approximate, _ = steps[name](begin, batch, take(splits.clean, mine), fresh=fresh)
            kept[name] = approximate.clean_gradient
            weights = np.asarray(approximate.history.last_weight)[rows]
            if np.ptp(weights) and np.ptp(expected):  # all zero: nothing to rank
                found[name].append(spearmanr(weights, expected).statistic)
        state = new
    return {name: float(np.mean(values)) for name, values in found.items()}


def accuracies(name: str) -> dict:
    """Mean test accuracy, and half its interval, of whole runs of an option."""
    config = config_of({"method": "reweight", "num_seeds": _SEEDS.value, **OPTIONS[name]})
    with tempfile.TemporaryDirectory() as folder:
        result = train_and_evaluate(config, folder, jax.local_devices()[:1])
    half = result["intervals"]["last"]["test_accuracy"]
    return {"accuracy": result["last"]["test_accuracy"], "interval": half}


def time_ratios() -> dict[str, float]:
    """Time of a ResNet-8 step of each option as a ratio to the exact one."""
    network = benchmark.network("resnet", depth=8)
    programs = {
        "plain": benchmark.compile_step(network, "plain"),
        "exact": benchmark.compile_step(network, "jvp"),
        "fresh": benchmark.compile_step(network, "jvp", fresh=True),
        "reused": benchmark.compile_step(network, "jvp", fresh=False),
        "last block and output layer": benchmark.compile_step(network, "jvp", RESNET_LAST),
        "output layer alone": benchmark.compile_step(network, "jvp", "Dense"),
    }
    for name, m in (("half the clean batch", 50), ("a fifth of the clean batch", 20)):
        programs[name] = benchmark.compile_step(network._replace(m=m), "jvp")
    runs = {name: program.run for name, program in programs.items()}
    times = benchmark.time_in_turns(runs, _ROUNDS.value)
    ratios = {name: benchmark.ratio(own, times["exact"]) for name, own in times.items()}
    fresh, reused = ratios.pop("fresh"), ratios.pop("reused")
    for steps in (2, 5, 20):
        ratios[f"clean gradient of {steps} steps"] = (fresh + (steps - 1) * reused) / steps
    return {name: round(value, 3) for name, value in ratios.items()}


def main(argv):
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options are written --name=value")
    if _SEEDS.value == 1:
        raise UserError("--seeds: 1; an interval needs two (0: no whole runs)")
    path = cli.output_file("--json", _JSON.value)
    ratios, correlations = time_ratios(), rank_correlations(_STEPS.value)
    rows = {"plain": {"time": ratios["plain"]}, "another clean batch": {}}
    rows |= {name: {"time": ratios[name]} for name in OPTIONS}
    for name in OPTIONS if _SEEDS.value else ():
        rows[name] |= accuracies(name)
    for name, correlation in correlations.items():
        rows[name]["rank correlation"] = round(correlation, 4)
    print(f"{'':30}{'rank correlation':>18}{'test accuracy, %':>20}{'time':>8}")
    for name, row in rows.items():
        accuracy = ""
        if "accuracy" in row:
            accuracy = f"{100 * row['accuracy']:.1f} ± {100 * row['interval']:.1f}"
        cells = (row.get("rank correlation", ""), accuracy, row.get("time", ""))
        print("{:30}{!s:>18}{:>20}{!s:>8}".format(name, *cells))
    if path:
        header = {"jax": jax.__version__, "seeds": _SEEDS.value, "steps": _STEPS.value}
        text = json.dumps({**header, "rows": rows}, indent=2)
        report.write_atomically(path, text + "\n")


if __name__ == "__main__":
    cli.run(main)
