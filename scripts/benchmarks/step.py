"""Times training steps: plain, reweighting by jvp and by lookahead, and PyTorch's double backward.

    python scripts/benchmarks/step.py [--networks=lenet,resnet32,wrn] [--steps=plain,jvp] [--torch]
    python scripts/benchmarks/step.py --devices=1,2,4 [--networks=lenet,resnet32]

LeNet has n = 100 and m = 10, ResNet-32 and WRN-28-10 n = m = 100 (WRN on a CPU: 2). All programs of
a network take turns in one process, so that a busier machine changes all of them alike: quote the
ratios, which are medians over the turns. Steps are timed as a run dispatches them: one on a CPU, 25
elsewhere. GFLOP is XLA's count for a CPU; TFLOP/s over the device's peak is its utilisation.
Programs of earlier runs are not used. The loop is a whole run with its logging, in turn with the
bare compiled step; "host" is the share of its time that is not the bare step's.

The table goes to stderr, and one line of JSON for each network to stdout. To compare two checkouts,
let them take turns:

    for turn in 1 2 3 4 5; do for checkout in ../before .; do
      (cd $checkout && python scripts/benchmarks/step.py --networks=lenet,resnet32 --noloop) |
        sed "s|^|$checkout |"
    done; done
"""

import functools
import json
import pathlib
import statistics
import sys
import tempfile

import jax
import programs as benchmark
from absl import flags

from reweight_jax import cli
from reweight_jax.errors import UserError, choose
from reweight_jax.records.metrics import read_metrics
from reweight_jax.records.workdir import write_atomically
from reweight_jax.train.loop import train

_NETWORKS = flags.DEFINE_list(
    "networks", ["lenet", "resnet32", "wrn"], "Which ones, one after the other."
)
_STEPS = flags.DEFINE_list("steps", [*benchmark.STEPS], "Steps besides plain, on one device.")
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Turns of each step; LeNet: 10 times as many.", 3)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_TORCH = flags.DEFINE_bool("torch", False, "PyTorch's steps too (the extra `bench`).")
_DEVICES = flags.DEFINE_list("devices", [], "Only this: times on so many devices, such as 1,2,4.")
_LOOP = flags.DEFINE_bool("loop", True, "Whether to time the whole loop too.")
_JSON = flags.DEFINE_string("json", None, "File to write the numbers to.")

COLUMNS = ("ms", "quartiles", "x plain", "GFLOP", "TFLOP/s", "temp MiB", "compile s")


def networks(on_cpu: bool) -> dict[str, benchmark.Network]:
    sizes = {"lenet": 100, "resnet32": 100, "wrn": 2 if on_cpu else 100}
    return {name: benchmark.named(name, _DTYPE.value, n) for name, n in sizes.items()}


def torch_programs(network) -> dict:
    """Returns the steps of PyTorch in both memory formats, on as many cores as XLA has."""
    try:
        import torch
        import torch_step as benchmark_torch
    except ImportError as error:
        raise UserError(f"--torch: {error}; pip install 'reweight-jax[bench]'") from None
    torch.set_num_threads(benchmark.num_cores())
    train = benchmark.random_examples(network, network.n, 0)
    clean = benchmark.random_examples(network, network.m, 1)
    arrays = (train.inputs, train.label, clean.inputs, clean.label)
    return {
        f"{name}, {layout}": benchmark_torch.program(step)
        for layout, channels_last in {"NCHW": False, "NHWC": True}.items()
        for name, step in benchmark_torch.create_steps(
            network.model, arrays, 1e-3, channels_last
        ).items()
    }


def time_loop(network, interval: int) -> float:
    """Returns the milliseconds a step of a whole run of reweighting on random images.

    The run logs five times, every `interval` steps. The first interval compiles and is not counted.
    """
    experiment = benchmark.create_experiment(
        network,
        "jvp",
        num_train=2_000,
        num_steps=5 * interval,
        log_every_steps=interval,
        eval_every_steps=5 * interval,
        checkpoint_every_steps=5 * interval,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(experiment, folder)
        records = read_metrics(pathlib.Path(folder))
    speeds = [r["steps_per_second"] for r in records if r["kind"] == "train"]
    return 1e3 / statistics.median(speeds[1:])


def measure(network, rounds: int) -> dict:
    """Returns {step: numbers} of one network, the table's columns."""
    if _DEVICES.value:
        return measure_devices(network, rounds)
    names = [s for s in benchmark.steps_of(network) if s in ("plain", *_STEPS.value)]
    programs = {name: benchmark.compile_step(network, name) for name in names}
    others = torch_programs(network) if _TORCH.value else {}
    times = benchmark.time_in_turns(programs | others, rounds)
    rows = with_ratios(times, times["plain"])
    for name, row in rows.items():
        if name in programs:
            operations = benchmark.count_operations(network, name)
            if operations:
                row["GFLOP"] = round(operations / 1e9, 2)
                row["TFLOP/s"] = round(row["GFLOP"] / row["ms"], 3)
            row["temp MiB"] = round(programs[name].temporary_bytes / 2**20)
            row["compile s"] = round(programs[name].compile_seconds, 1)
    return rows


def with_ratios(times: dict[str, list[float]], plain: list[float]) -> dict:
    """Returns {step: its quartiles, and its ratio to the plain step}."""
    return {
        name: benchmark.quartiles(turns) | {"x plain": round(benchmark.ratio(turns, plain), 3)}
        for name, turns in times.items()
    }


def measure_devices(network, rounds: int) -> dict:
    """Returns the same of steps on several devices; CPU devices share the threads of one."""
    programs = {}
    for count in map(int, _DEVICES.value):
        if network.n % count:
            continue  # the two images of a WRN on a CPU
        devices = jax.local_devices()[:count]
        for name in ("plain", "jvp"):
            program = benchmark.compile_step(network, name, devices)
            programs[f"{name}, devices: {count}"] = program
    times = benchmark.time_in_turns(programs, rounds)
    return with_ratios(times, next(iter(times.values())))


def measure_loop(network, rounds: int) -> dict:
    """Returns the times of the whole loop and of the bare step, medians over three turns each."""
    program = {"jvp": benchmark.compile_step(network, "jvp")}
    bare, loop = [], []
    for _ in range(3):
        bare.append(round(statistics.median(benchmark.time_in_turns(program, rounds)["jvp"]), 3))
        interval = max(rounds // 2, 2, round(1e3 / bare[0]))  # steps of a second or more
        interval = -(-interval // program["jvp"].steps) * program["jvp"].steps  # whole dispatches
        loop.append(round(time_loop(network, interval), 3))
    bare_ms, loop_ms = statistics.median(bare), statistics.median(loop)
    return {
        "steps per second": round(1e3 / loop_ms, 3),
        "loop ms": loop,
        "bare step ms": bare,
        "x bare": round(loop_ms / bare_ms, 3),
        "host": round(max(1 - bare_ms / loop_ms, 0.0), 4),
    }


def print_table(title, rows, loop):
    show = functools.partial(print, file=sys.stderr)
    show(f"\n{title:32}" + "".join(f"{column:>17}" for column in COLUMNS))
    for name, row in rows.items():
        cells = {**row, "quartiles": f"{row['low']:g}-{row['high']:g}"}
        show(f"{name:32}" + "".join(f"{cells.get(column, '')!s:>17}" for column in COLUMNS))
    if loop:
        show(
            f"whole loop: {loop['steps per second']:g} steps/s, {loop['x bare']:g} times the bare "
            f"step; host {loop['host']:.1%}"
        )


def main():
    if not all(count.isdecimal() and int(count) for count in _DEVICES.value):
        raise UserError(f"--devices: {','.join(_DEVICES.value)}; must be numbers, such as 1,2,4")
    if _TORCH.value and _DTYPE.value != "float32":
        raise UserError(f"--dtype: {_DTYPE.value}; PyTorch's steps are in float32")
    most = max(map(int, _DEVICES.value), default=1)
    if most > 1 and jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", most)  # does nothing on an accelerator
    if most > jax.local_device_count():
        raise UserError(f"--devices: {most}, but there are {jax.local_device_count()}")
    for step in _STEPS.value:
        choose("--steps", step, benchmark.STEPS)
    path = cli.output_file("--json", _JSON.value)
    with tempfile.TemporaryDirectory() as cache:  # an empty one: compile times are measured
        jax.config.update("jax_compilation_cache_dir", cache)
        measure_all(path)


def measure_all(path):
    device = jax.local_devices()[0]
    result = {
        "device": f"{jax.local_device_count()} x {device.device_kind}",
        "cores": benchmark.num_cores(),
        "jax": jax.__version__,
        "dtype": _DTYPE.value,
        "networks": {},
    }
    valid = networks(device.platform == "cpu")
    for name in _NETWORKS.value:
        network = choose("--networks", name, valid)
        rounds = _ROUNDS.value * (10 if name == "lenet" else 1)
        rows = measure(network, rounds)
        loop = measure_loop(network, rounds) if _LOOP.value and not _DEVICES.value else None
        sizes = {"n": network.n, "m": network.m, "rounds": rounds}
        result["networks"][name] = {**sizes, "steps": rows, "loop": loop}
        print_table(f"{name} n={network.n} m={network.m}", rows, loop)
        print(json.dumps({"network": name, **result["networks"][name]}), flush=True)
        if path:
            write_atomically(path, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
