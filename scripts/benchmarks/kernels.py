"""Where the time of a step goes on a device: its kernels, those that take longest first.

    python scripts/benchmarks/kernels.py --network=resnet32 --step=jvp --dtype=bfloat16

One dispatch on random images, as a run has it, is recorded by JAX's profiler. "busy" is the time of
all kernels of a step, "span" that from the first one to the last: what lies between is waiting. On
a CPU the events are XLA's own calls, some of them inside others.
"""

import collections
import pathlib
import tempfile

import jax
import programs as benchmark
from absl import flags

from reweight_jax import cli
from reweight_jax.errors import UserError

# name -> arguments of programs.network
NETWORKS = {
    "lenet": {"name": "lenet", "m": 10},
    "resnet32": {"name": "resnet"},
    "wrn": {"name": "wide_resnet"},
    "transformer": {"name": "transformer"},
}
_NETWORK = flags.DEFINE_enum("network", "resnet32", [*NETWORKS], "Whose step.")
_STEP = flags.DEFINE_enum("step", "jvp", [*benchmark.STEPS], "Which step.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_BATCH = flags.DEFINE_integer("batch", 100, "Training batch.", 1)
_TOP = flags.DEFINE_integer("top", 40, "How many kernels to print.", 1)


def record(run) -> list:
    """Returns the events of each busy line (a stream, a thread) of the first device in `run`."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        kind = "/host:CPU" if jax.default_backend() == "cpu" else "/device:"
        planes = sorted((p for p in data.planes if p.name.startswith(kind)), key=lambda p: p.name)
        if not planes:
            raise UserError(f"the profiler recorded no plane {kind}*")
        lines = [list(line.events) for line in planes[0].lines if is_of_kernels(line.name)]
        return [events for events in lines if events]


def is_of_kernels(line: str) -> bool:
    """Returns whether a line of a device's plane has kernels, rather than sums of them."""
    return line.startswith(("Stream", "XLA Ops", "tf_XLA"))


def table(lines: list, steps: int, top: int) -> str:
    """Returns the table of the events of `record`, for each of `steps` steps."""
    events = [event for line in lines for event in line]
    time, count = collections.Counter(), collections.Counter()
    for event in events:
        time[event.name] += event.duration_ns
        count[event.name] += 1
    first, last = min(e.start_ns for e in events), max(e.end_ns for e in events)
    busy = sum(time.values())
    text = [
        f"{len(events) / steps:.0f} kernels a step, busy {busy / 1e6 / steps:.3f} ms, "
        f"span {(last - first) / 1e6 / steps:.3f} ms",
        f"{'us a step':>10}{'% of busy':>11}{'times':>8}  kernel",
    ]
    for name, nanoseconds in time.most_common(top):
        share, often = 100 * nanoseconds / busy, count[name] / steps
        text.append(f"{nanoseconds / 1e3 / steps:10.1f}{share:11.1f}{often:8.1f}  {name[:100]}")
    return "\n".join(text)


def main():
    chosen = {"n": _BATCH.value, "m": _BATCH.value} | NETWORKS[_NETWORK.value]
    network = benchmark.network(dtype=_DTYPE.value, **chosen)
    if _STEP.value not in benchmark.steps_of(network):
        raise UserError(f"--step: {_STEP.value}; not for networks with BatchNorm")
    program = benchmark.compile_step(network, _STEP.value)
    program.run()
    device = jax.local_devices()[0].device_kind
    sizes = f"n = {network.n}, m = {network.m}"
    print(
        f"{_NETWORK.value}, {_STEP.value}, {_DTYPE.value}, {sizes}, {device}, jax {jax.__version__}"
    )
    print(table(record(program.run), program.steps, _TOP.value))


if __name__ == "__main__":
    cli.run(main)
