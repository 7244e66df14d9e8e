"""Times training steps: plain, reweighting by jvp and by lookahead, and PyTorch's double backward.

    python scripts/benchmarks/step.py [--networks=lenet,resnet32,wrn] [--torch]
    python scripts/benchmarks/step.py --devices=1,2,4 [--networks=lenet,resnet32]

LeNet has n = 100 and m = 10, ResNet-32 and WRN-28-10 n = m = 100 (WRN on a CPU: 2). All programs of
a network take turns in one process, so that a busier machine changes all of them alike: quote the
ratios, which are medians over the turns. GFLOP and temporary memory are XLA's own; compile time is
without a cache. The loop is a whole run of python -m reweight_jax.main with its logging, in turn
with the bare compiled step; "host" is the share of its time that the bare step does not account
for.
"""

import json
import pathlib
import statistics
import tempfile

import jax
import programs as benchmark
from absl import flags

from reweight_jax import cli
from reweight_jax.errors import UserError, choose
from reweight_jax.records import report
from reweight_jax.train.loop import train_and_evaluate

_NETWORKS = flags.DEFINE_list("networks", ["lenet", "resnet32", "wrn"], "Which ones, and in turn.")
_ROUNDS = flags.DEFINE_integer("rounds", 20, "Turns of each step; LeNet: 10 times as many.", 3)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_TORCH = flags.DEFINE_bool("torch", False, "PyTorch's steps as well (the extra `bench`).")
_DEVICES = flags.DEFINE_list("devices", [], "Only on so many devices that share a batch, as 1,2,4.")
_JSON = flags.DEFINE_string("json", None, "File to write the numbers to.")

COLUMNS = ("ms", "quartiles", "x plain", "GFLOP", "temp MiB", "compile s")


def networks(on_cpu: bool) -> dict[str, benchmark.Network]:
    wide = 2 if on_cpu else 100
    return {
        "lenet": benchmark.network("lenet", _DTYPE.value, 100, 10),
        "resnet32": benchmark.network("resnet", _DTYPE.value),
        "wrn": benchmark.network("wide_resnet", _DTYPE.value, wide, wide),
    }


def torch_programs(network) -> dict:
    """The steps of PyTorch in both memory formats, on as many cores as XLA has."""
    try:
        import torch
        import torch_step as benchmark_torch
    except ImportError as error:
        raise UserError(f"--torch: {error}; pip install 'reweight-jax[bench]'") from None
    torch.set_num_threads(benchmark.num_cores())
    train = benchmark.random_examples(network, network.n, 0)
    clean = benchmark.random_examples(network, network.m, 1)
    arrays = (train.image, train.label, clean.image, clean.label)
    return {
        f"{name}, {layout}": step
        for layout, channels_last in {"NCHW": False, "NHWC": True}.items()
        for name, step in benchmark_torch.create_steps(
            network.model.to_dict(), arrays, 1e-3, channels_last
        ).items()
    }


def time_loop(network, num_steps: int) -> float:
    """Milliseconds a step of a whole run of reweighting on random images."""
    from configs import default  # cli.run has made configs/ importable

    config = default.get_config()
    config.model.update(network.model)
    config.batch_size, config.clean_batch_size = network.n, network.m
    config.num_steps, config.log_every_steps = num_steps, num_steps // 5
    config.eval_every_steps = config.checkpoint_every_steps = num_steps
    config.data.update({"name": "npz", "num_clean": max(network.m, 10), "num_hyper_val": 100})
    if network.image[-1] == 3:
        config.data.crop_padding, config.data.flip = 4, True
    with tempfile.TemporaryDirectory() as folder:
        config.data.path = f"{folder}/random.npz"
        benchmark.write_npz(network, config.data.path)
        train_and_evaluate(config, f"{folder}/run", jax.local_devices()[:1])
        records = report.read_metrics(pathlib.Path(folder, "run"))
    speeds = [r["steps_per_second"] for r in records if r["kind"] == "train"]
    return 1e3 / statistics.median(speeds[1:])  # the first interval compiles


def measure(network, rounds: int) -> dict:
    """{step: numbers} of one network: the table's columns, and those of the loop."""
    if _DEVICES.value:
        return measure_devices(network, rounds)
    programs = {name: benchmark.compile_step(network, name) for name in benchmark.STEPS}
    runs = {name: program.run for name, program in programs.items()}
    if _TORCH.value:
        runs |= torch_programs(network)
    times = benchmark.time_in_turns(runs, rounds)
    rows = with_ratios(times, times["plain"])
    for name, row in rows.items():
        if name in programs:
            row["GFLOP"] = round(programs[name].flops / 1e9, 2)
            row["temp MiB"] = round(programs[name].temporary_bytes / 2**20)
            row["compile s"] = round(programs[name].compile_seconds, 1)
    return rows


def with_ratios(times: dict[str, list[float]], plain: list[float]) -> dict:
    """{step: its quartiles, and its ratio to the plain step}."""
    return {
        name: benchmark.quartiles(own) | {"x plain": round(benchmark.ratio(own, plain), 3)}
        for name, own in times.items()
    }


def measure_devices(network, rounds: int) -> dict:
    """The same for steps of several devices alone: CPU devices share out the threads of one."""
    runs = {}
    for count in map(int, _DEVICES.value):
        if network.n % count:
            continue  # the two images of a WRN on a CPU
        devices = jax.local_devices()[:count]
        for name in ("plain", "jvp"):
            run = benchmark.compile_on_devices(network, name, devices)
            runs[f"{name}, devices: {count}"] = run
    times = benchmark.time_in_turns(runs, rounds)
    return with_ratios(times, next(iter(times.values())))


def measure_loop(network, rounds: int) -> dict:
    """The whole loop and the bare step, three turns of each: the medians over the turns."""
    run = {"jvp": benchmark.compile_step(network, "jvp").run}
    bare, loop = [], []
    for _ in range(3):
        bare.append(round(statistics.median(benchmark.time_in_turns(run, rounds)["jvp"]), 2))
        loop.append(round(time_loop(network, 5 * max(rounds // 2, 2)), 2))
    bare_ms, loop_ms = statistics.median(bare), statistics.median(loop)
    return {
        "steps per second": round(1e3 / loop_ms, 3),
        "loop ms": loop,
        "bare step ms": bare,
        "x bare": round(loop_ms / bare_ms, 3),
        "host": round(max(1 - bare_ms / loop_ms, 0.0), 4),
    }


def print_table(title, rows, loop):
    print(f"\n{title:32}" + "".join(f"{column:>17}" for column in COLUMNS))
    for name, row in rows.items():
        cells = {**row, "quartiles": f"{row['low']:g}-{row['high']:g}"}
        print(f"{name:32}" + "".join(f"{cells.get(column, '')!s:>17}" for column in COLUMNS))
    if loop:
        print(
            f"whole loop: {loop['steps per second']:g} steps/s, {loop['x bare']:g} times the bare "
            f"step; host {loop['host']:.1%}"
        )


def main(argv):
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; options are written --name=value")
    if not all(count.isdecimal() and int(count) for count in _DEVICES.value):
        raise UserError(f"--devices: {','.join(_DEVICES.value)}; must be numbers, as 1,2,4")
    if _TORCH.value and _DTYPE.value != "float32":
        raise UserError(f"--dtype: {_DTYPE.value}; PyTorch's steps are in float32")
    most = max(map(int, _DEVICES.value), default=1)
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", most)  # of no concern to an accelerator
    if most > jax.local_device_count():
        raise UserError(f"--devices: {most}, but there are {jax.local_device_count()}")
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    path = cli.output_file("--json", _JSON.value)
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
        loop = None if _DEVICES.value else measure_loop(network, rounds)
        sizes = {"n": network.n, "m": network.m, "rounds": rounds}
        result["networks"][name] = {**sizes, "steps": rows, "loop": loop}
        print_table(f"{name} n={network.n} m={network.m}", rows, loop)
        if path:
            report.write_atomically(path, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
