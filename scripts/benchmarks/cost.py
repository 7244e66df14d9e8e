"""Draws how a step's cost grows: batch, clean batch, width, devices against time and memory.

    python scripts/benchmarks/cost.py [--depth=8] [--results=FOLDER]

One quantity grows at a time; the others are n = m = 100, width 1 and one device. Writes
cost_<platform>.png and .csv: milliseconds of the plain and of the reweighting step (jvp), medians
of steps that take turns, and the temporary memory that XLA counts for each (on one device).
"""

import jax
import programs as benchmark
from absl import flags
from matplotlib.figure import Figure

from reweight_jax import cli
from reweight_jax.paper.tables import to_csv
from reweight_jax.records import plots
from reweight_jax.records.workdir import write_atomically

_DEPTH = flags.DEFINE_integer("depth", 8, "Depth of the ResNet: 6b + 2.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each step.", 2)
_RESULTS = flags.DEFINE_string("results", "runs/results", "Folder to write to.")

GROWING = {"n": (25, 50, 100, 200), "m": (10, 25, 50, 100, 200), "width": (1, 2, 4)}
DEVICES = (1, 2, 4)


def measure_size(quantity: str) -> list[dict]:
    """Returns the rows of the table for n, m or width."""
    programs = {
        (value, step): benchmark.compile_step(
            benchmark.network("resnet", depth=_DEPTH.value, **{quantity: value}), step
        )
        for value in GROWING[quantity]
        for step in ("plain", "jvp")
    }
    times = benchmark.time_in_turns(programs, _ROUNDS.value)
    return [
        {
            "quantity": quantity,
            "value": value,
            "step": step,
            **benchmark.quartiles(times[value, step]),
            "temporary_mib": round(program.temporary_bytes / 2**20, 1),
        }
        for (value, step), program in programs.items()
    ]


def measure_devices() -> list[dict]:
    """Returns the rows of the table for those numbers of DEVICES that there are."""
    devices = jax.local_devices()
    network = benchmark.network("resnet", depth=_DEPTH.value)
    programs = {
        (count, step): benchmark.compile_step(network, step, devices[:count])
        for count in DEVICES
        if count <= len(devices)
        for step in ("plain", "jvp")
    }
    times = benchmark.time_in_turns(programs, _ROUNDS.value)
    return [
        {
            "quantity": "devices",
            "value": count,
            "step": step,
            **benchmark.quartiles(turns),
            "temporary_mib": None,
        }
        for (count, step), turns in times.items()
    ]


def draw(rows: list[dict], title: str) -> Figure:
    """Returns the figure: time above, memory below, a column for each quantity."""
    quantities = [*GROWING, "devices"]
    figure = Figure(figsize=(12, 5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(2, len(quantities), sharey="row")
    for column, quantity in zip(axes.T, quantities, strict=True):
        for step, colour in (("plain", "tab:grey"), ("jvp", "tab:blue")):
            of_line = [r for r in rows if (r["quantity"], r["step"]) == (quantity, step)]
            label = "plain" if step == "plain" else "reweight, jvp"
            for panel, field in zip(column, ("ms", "temporary_mib"), strict=True):
                points = [(r["value"], r[field]) for r in of_line if r[field] is not None]
                if points:
                    panel.plot(*zip(*points, strict=True), "o-", color=colour, label=label)
        column[-1].set_xlabel(quantity)
        if quantity == "devices":
            column[-1].set_axis_off()
            column[0].set_xlabel(quantity)
    axes[0, 0].set_ylabel("ms a step")
    axes[1, 0].set_ylabel("temporary memory, MiB")
    axes[0, 0].legend()
    for panel in axes.flat:
        panel.set_ylim(bottom=0)
        panel.set_xlim(left=0)
    return figure


def main():
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", max(DEVICES))
    results = cli.make_folder("--results", _RESULTS.value)
    rows = [row for quantity in GROWING for row in measure_size(quantity)] + measure_devices()
    table = to_csv(rows)
    platform = jax.default_backend()
    write_atomically(results / f"cost_{platform}.csv", table)
    title = f"ResNet-{_DEPTH.value}, n = m = 100 unless given, {jax.local_devices()[0].device_kind}"
    plots.save(draw(rows, title), results / f"cost_{platform}.png")
    print(table, end="")


if __name__ == "__main__":
    cli.run(main)
