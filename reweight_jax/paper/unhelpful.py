"""Steps in which no example of the batch is helpful: how many, and what changes them.

Weights are then all zero (the delta of Eq. 9), and only momentum moves the parameters.
"""

import pathlib
import statistics

import numpy as np

from reweight_jax.configs import mnist_imbalance
from reweight_jax.paper import style, tables
from reweight_jax.paper.grid import Run, grid
from reweight_jax.paper.scales import Scale
from reweight_jax.records import plots
from reweight_jax.records.metrics import read_metrics
from reweight_jax.records.workdir import read_run

TEXTS = {
    "": "as in the paper",
    "guard": "such batches weighed uniformly",
    "larger": "a larger clean set, all of it in each step",
    "larger-batch": "a larger clean set, the usual number of it in each step",
}
COLORS = ("#D55E00", "#000000", "#56B4E9", "#009E73")


def runs(scale: Scale, root: pathlib.Path) -> list[Run]:
    """Returns runs of reweight at the largest imbalance ratio, in the settings of TEXTS."""
    config = mnist_imbalance.get_config(scale.imbalance)
    larger = (2 if scale.imbalance == "digits" else 3) * config.data.num_clean
    fields = {
        "": {},
        "guard": {"on_zero_weights": "uniform"},
        "larger": {"data.num_clean": larger, "clean_batch_size": larger},
        "larger-batch": {"data.num_clean": larger, "clean_batch_size": config.data.num_clean},
    }
    found = []
    for name in TEXTS:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(fields[name])
        folder = root / "-".join(filter(None, (config.name, config.variant, name)))
        found += grid(changed, folder, ["reweight"], scale.ratios[:1], range(scale.seeds))
    return found


def write(finished: list[Run], path: pathlib.Path) -> tuple[list[dict], str]:
    """Writes `path`.png of finished runs, and returns rows and a table of them."""
    rows, (figure, ((left, right),)) = [], style.new_figure(1, 2, size=(9, 4.4))
    plain = f"{finished[0].config.name}-{finished[0].config.variant}"
    for (name, text), color in zip(TEXTS.items(), COLORS, strict=True):
        folder = "-".join(filter(None, (plain, name)))
        of_setting = [run for run in finished if run.workdir.parts[-4] == folder]
        if not of_setting:
            continue
        rows.append(_row(of_setting, text))
        for seed, run in enumerate(of_setting):
            look = {"color": color, "lw": 1.2, "label": None if seed else text}
            steps, shares, losses = _curves(run)
            left.plot(steps, 100 * shares, **look)
            right.plot(*losses, **look | {"label": None})
    left.set(xlabel="step", ylabel="steps without a helpful example, %", ylim=(0, None))
    right.set(xlabel="step", ylabel="loss on the clean set", yscale="log")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    plots.save(figure, path.with_suffix(".png"))
    head = ["", "seeds", "clean examples", "clean batch"]
    head += ["steps without", "clean loss", "test error, %"]
    lines = []
    for row in rows:
        numbers = [f"{row['share_of_steps']:.1%}", f"{row['clean_loss']:.1e}"]
        cells = [row["setting"], *(str(row[k]) for k in ("seeds", "num_clean", "clean_batch_size"))]
        lines.append([*cells, *numbers, tables.percent(row["test_error"], row["ci95"])])
    return rows, tables.markdown(head, lines)


def _row(of_setting, text):
    config = of_setting[0].config
    results = [read_run(run.workdir)[1] for run in of_setting]
    error, interval = tables.mean_and_interval([r["last"]["test_error"] for r in results])
    without = [r["steps_without_helpful_example"] / config.num_steps for r in results]
    row = {"setting": text, "seeds": len(of_setting), "num_clean": config.data.num_clean}
    clean_batch_size = min(config.clean_batch_size, config.data.num_clean)
    row |= {"clean_batch_size": clean_batch_size, "num_steps": config.num_steps}
    row |= {"share_of_steps": statistics.fmean(without)}
    row |= {"clean_loss": statistics.fmean(r["last"]["clean_loss"] for r in results)}
    return row | {"test_error": error, "ci95": interval}


def _curves(run):
    """Steps, the share of steps without a helpful example in each interval, (steps, clean loss)."""
    records = read_metrics(run.workdir)
    trains = [record for record in records if record["kind"] == "train"]
    evals = [record for record in records if record["kind"] == "eval"]
    steps = np.array([record["step"] for record in trains])
    counts = np.array([record["steps_without_helpful_example"] for record in trains])
    losses = [r["step"] for r in evals], [r["clean"]["loss"] for r in evals]
    return steps, counts / np.diff(steps, prepend=0), losses
