"""Lists the kernels of a training step on a device, slowest first.

    python scripts/benchmarks/kernels.py --network=resnet32 --step=jvp --dtype=bfloat16

JAX's profiler records one dispatch on random images. "busy" is the time in which a kernel or a copy
runs. A GPU may start them one by one while it is recorded, without command buffers: compare
the kernels; the time of a step that is not recorded is printed above. On a CPU the events are XLA's
own calls, some of them inside others.
"""

import collections
import pathlib
import tempfile

import jax
import programs as benchmark
from absl import flags

from reweight_jax import cli
from reweight_jax.errors import UserError

_NETWORK = flags.DEFINE_enum("network", "resnet32", [*benchmark.NETWORKS], "Network to profile.")
_STEP = flags.DEFINE_enum("step", "jvp", [*benchmark.STEPS], "Its step.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_BATCH = flags.DEFINE_integer("batch", 100, "Training batch.", 1)
_TOP = flags.DEFINE_integer("top", 40, "How many kernels to print.", 1)
# Names of the lines (streams, threads) that have kernels: of a GPU, a TPU, a CPU.
LINES = ("Stream", "XLA Ops", "tf_XLA")


def record(run) -> list:
    """Returns the events of the first device in `run`, with name, start_ns, end_ns, duration_ns."""
    platform = jax.default_backend()
    plane_name = "/host:CPU" if platform == "cpu" else f"/device:{platform.upper()}:0"
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
        lines = [line for p in profile.planes if p.name == plane_name for line in p.lines]
        for kind in LINES:
            events = [e for line in lines if line.name.startswith(kind) for e in line.events]
            if events:  # a loop's parts are there too
                return [event for event in events if not event.name.startswith("while")]
    raise UserError(f"the profiler recorded no kernels on {plane_name}")


def table(events: list, steps: int, top: int) -> str:
    """Returns the table of the events of `record`, for each of `steps` steps."""
    time, count = collections.Counter(), collections.Counter()
    busy, end = 0, 0
    for event in sorted(events, key=lambda e: e.start_ns):
        time[event.name] += event.duration_ns
        count[event.name] += 1
        busy += max(event.end_ns - max(event.start_ns, end), 0)
        end = max(end, event.end_ns)
    text = [
        f"{len(events) / steps:.0f} kernels and copies a step, busy {busy / 1e6 / steps:.3f} ms",
        f"{'us a step':>10}{'times':>8}  kernel",
    ]
    for name, nanoseconds in time.most_common(top):
        text.append(f"{nanoseconds / 1e3 / steps:10.1f}{count[name] / steps:8.1f}  {name[:100]}")
    return "\n".join(text)


def main():
    network = benchmark.named(_NETWORK.value, _DTYPE.value, _BATCH.value)
    if _STEP.value not in benchmark.steps_of(network):
        raise UserError(f"--step: {_STEP.value}; not for networks with BatchNorm")
    program = benchmark.compile_step(network, _STEP.value)
    (times,) = benchmark.time_in_turns({"": program}, 5).values()
    device = jax.local_devices()[0].device_kind
    sizes = f"n = {network.n}, m = {network.m}"
    print(
        f"{_NETWORK.value}, {_STEP.value}, {_DTYPE.value}, {sizes}, {device}, jax {jax.__version__}"
    )
    print(f"{benchmark.quartiles(times)['ms']} ms a step, not recorded")
    print(table(record(program.run), program.steps, _TOP.value))


if __name__ == "__main__":
    cli.run(main)
