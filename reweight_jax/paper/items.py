"""Each figure and table of the paper, and what the paper does not have: its runs and its files."""

import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from reweight_jax.paper import (
    behaviour,
    figures,
    imbalance,
    mechanism,
    noise,
    published,
    scores,
    style,
    tables,
    unhelpful,
)
from reweight_jax.paper.grid import Run
from reweight_jax.paper.scales import NOISES, Scale, imbalance_runs, noisy_runs, retrained_runs
from reweight_jax.records.workdir import read_run, write_atomically

ALL = published.NOISE_METHODS
TABLE_1 = tuple(
    m for m in ALL if m in {name for name, _ in published.NOISE_ACCURACY["uniform_flip"]}
)
CURVES = ("baseline", "s_model", "random", "reweight")
SHORT = ("baseline", "reed_soft", "reed_hard", "s_model_conf")  # the paper's rows +ES
NUM_CLEAN = {"num_clean": lambda config: config.data.num_clean}
PERCENT_WRONG = {"wrong_labels": lambda config: 100 * config.data.noise_ratio}
KIND = {"noise": lambda config: config.data.noise.removesuffix("_flip")}
TAIL = KIND | {"imbalance_factor": lambda config: config.data.imbalance_factor}


class Item(NamedTuple):
    """A figure or table.

    Attributes:
      title: one line.
      runs: (scale, folder of all runs) -> its runs.
      write: (finished runs, path without suffix) -> (rows of its CSV, Markdown); writes PNGs.
    """

    title: str
    runs: Callable[[Scale, pathlib.Path], list[Run]]
    write: Callable[[list[Run], pathlib.Path], tuple[list[dict], str]]


# --- Figures 2 to 7 -------------------------------------------------------------------------------


def write_fig2(runs, path):
    rows = imbalance.rows_of([read_run(run.workdir) for run in runs])
    figures.draw_imbalance(rows, path.with_suffix(".png"))
    return rows, imbalance.to_markdown(rows)


def fig3_runs(scale, root):
    steps = NOISES["background"][0].get_config(scale.noisy[0]).num_steps // 2
    fields = {"num_steps": steps, "lr_drop_steps": (), "finetune_from": "none"}
    return noisy_runs(scale, root, "background", ["reweight"], name="half", **fields)


def write_fig3(runs, path):
    shown = mechanism.panels(runs)
    mechanism.draw(shown, path.with_suffix(".png"))
    rows = mechanism.summary(shown)
    return rows, mechanism.to_markdown(rows)


def fig4_runs(scale, root):
    runs = []
    usual = NOISES["background"][0].get_config(scale.noisy[0]).data.num_clean
    for count in scale.num_clean:
        options = {} if count == usual else {"name": f"clean{count}", "data__num_clean": count}
        runs += noisy_runs(scale, root, "background", ["reweight", "baseline"], **options)
    return runs


def write_fig4(runs, path):
    rows = scores.collect(runs, **NUM_CLEAN)
    lines = [("reweight", ""), *(("baseline", choice) for choice in ("", "+ES", "+FT", "stopped"))]
    options = {"xlabel": "clean images", "xscale": "log"}
    figures.draw_lines(rows, "num_clean", lines, path.with_suffix(".png"), **options)
    return rows, scores.to_markdown(rows, "num_clean")


def fig5_runs(scale, root):
    methods = ["reweight", "baseline", "s_model_conf"]
    return noisy_runs(scale, root, "background", methods, ratios=scale.noise_ratios)


def write_fig5(runs, path):
    rows = scores.collect(runs, **PERCENT_WRONG)
    lines = [("reweight", ""), ("s_model_conf", "")]
    lines += [("baseline", choice) for choice in ("", "+ES", "+FT", "stopped")]
    figures.draw_lines(
        rows, "wrong_labels", lines, path.with_suffix(".png"), xlabel="wrong labels, %"
    )
    return rows, scores.to_markdown(rows, "wrong_labels", "%")


def fig6_runs(scale, root):
    runs = noisy_runs(scale, root, "uniform", ["baseline", "reweight"])
    runs += noisy_runs(scale, root, "background", ["baseline", "reweight"])
    return [run for run in runs if run.config.seed == 0]


def write_fig6(runs, path):
    kinds = list(dict.fromkeys(run.config.data.noise for run in runs))
    grid = [[run for run in runs if run.config.data.noise == kind] for kind in kinds]
    titles = [
        [f"{run.config.method}, {kind.removesuffix('_flip')}" for run in row]
        for kind, row in zip(kinds, grid, strict=True)
    ]
    if any(len(row) != len(grid[0]) for row in grid):
        return [], "Not drawn: a run is missing.\n"
    behaviour.draw_confusions(grid, titles, path.with_suffix(".png"))
    lines = [
        [title, "; ".join(f"{a} as {b}: {s:.0%}" for a, b, s in behaviour.most_confused(run))]
        for title, run in zip(sum(titles, []), sum(grid, []), strict=True)
    ]
    return [], tables.markdown(["run", "most confused: true class, predicted, share"], lines)


def write_fig7(runs, path):
    rows = behaviour.curves(runs)
    behaviour.draw_curves(rows, runs[0].config.lr_drop_steps, path.with_suffix(".png"))
    return rows, behaviour.curves_to_markdown(rows, runs[0].config)


# --- Tables 1 and 2 -------------------------------------------------------------------------------


def table2_runs(scale, root):
    runs = noisy_runs(scale, root, "background", ALL, variants=scale.noisy)
    return runs + noisy_runs(scale, root, "background", SHORT, variants=scale.short)


def write_table(runs, path):
    rows = noise.rows_of([read_run(run.workdir) for run in runs])
    drawn = {}
    for row in rows:
        title = f"{row['dataset']}, {row['noise'].removesuffix('_flip')} {row['noise_ratio']:.0%}"
        paper, _ = noise.paper_elsewhere(row)
        shown = row["choice"] == "" or not math.isnan(paper)
        if shown and not (row["setting"] or "short" in row["choice"]):
            paper = row["paper"] if row["dataset"] == "cifar100" else paper
            drawn.setdefault(title, []).append(row | {"paper": paper})
    figures.draw_dots(drawn, path.with_suffix(".png"))
    return rows, noise.to_markdown(rows, beside=True)


# --- What the paper does not have -----------------------------------------------------------------


def tails_runs(scale, root):
    """A tail leaves few examples: hyper_val takes a quarter of what it takes of the whole set."""
    runs = []
    usual = NOISES["background"][0].get_config(scale.noisy[0]).data.num_hyper_val
    for factor in scale.tails:
        for kind in ("background", "uniform"):
            options = {"name": f"tail{factor:g}", "data__imbalance_factor": factor}
            options |= {"data__num_hyper_val": usual // 4}
            runs += noisy_runs(scale, root, kind, ALL, finetune_from="none", **options)
            runs += retrained_runs(scale, root, kind, **options)
    return runs


def asymmetric_runs(scale, root):
    runs = noisy_runs(scale, root, "asymmetric", ALL, finetune_from="none")
    return runs + retrained_runs(scale, root, "asymmetric")


def stopping_runs(scale, root):
    kinds = ("uniform", "background")
    return [
        r for k in kinds for r in noisy_runs(scale, root, k, ["baseline", "random", "reweight"])
    ]


def no_noise_runs(scale, root):
    ratios = (0.0, published.NOISE_RATIO)
    runs = noisy_runs(scale, root, "background", ["baseline", "reweight"], ratios=ratios)
    return runs + retrained_runs(scale, root, "background", ratios=ratios)


def write_panels(columns: dict[str, Callable], title: str, choices: tuple = ()) -> Callable:
    """Returns write(runs, path): dots of every method, a panel for each value of the columns.

    `title`: of a panel, by the columns; `choices`: of the model, beside "retrained"; (): all.
    """

    def write(runs, path):
        rows = scores.collect(runs, **columns)
        rows = [row for row in rows if not choices or row["choice"] in (*choices, "retrained")]
        drawn = {}
        for row in rows:
            drawn.setdefault(title.format(**row), []).append(row)
        figures.draw_dots(drawn, path.with_suffix(".png"))
        lines = []
        for line in dict.fromkeys((row["method"], row["choice"]) for row in rows):
            cells = (map(scores.cell, scores.pick(of_panel, *line)) for of_panel in drawn.values())
            lines.append([style.label(*line), *(next(cell, "") for cell in cells)])
        return rows, tables.markdown(["test accuracy, %", *drawn], lines)

    return write


STOPPING = ("", "+ES", "stopped", "+FT")
ITEMS = {
    "fig2": Item("Figure 2: imbalanced classes", imbalance_runs, write_fig2),
    "fig3": Item("Figure 3: weights of held-out examples", fig3_runs, write_fig3),
    "fig4": Item("Figure 4: the size of the clean set, background noise", fig4_runs, write_fig4),
    "fig5": Item("Figure 5: the share of wrong labels, background noise", fig5_runs, write_fig5),
    "fig6": Item("Figure 6: confusion matrices on the test set, trial 0", fig6_runs, write_fig6),
    "fig7": Item(
        "Figure 7: training curves, background noise",
        lambda scale, root: noisy_runs(scale, root, "background", CURVES),
        write_fig7,
    ),
    "table1": Item(
        "Table 1: uniform noise",
        lambda scale, root: noisy_runs(scale, root, "uniform", TABLE_1, variants=scale.noisy),
        write_table,
    ),
    "table2": Item("Table 2: background noise", table2_runs, write_table),
    "tails": Item(
        "Not in the paper: 40% wrong labels and a long tail at once",
        tails_runs,
        write_panels(TAIL, "{noise}, tail {imbalance_factor:g}:1", choices=("",)),
    ),
    "asymmetric": Item(
        "Not in the paper: asymmetric noise, each class taken for another one",
        asymmetric_runs,
        write_panels(KIND, "{noise}", choices=("", "stopped")),
    ),
    "stopping": Item(
        "Not in the paper: plain training stopped by the clean set",
        stopping_runs,
        write_panels(KIND, "{noise}", choices=STOPPING),
    ),
    "no_noise": Item(
        "Not in the paper: what reweighting costs without wrong labels, and retraining",
        no_noise_runs,
        write_panels(PERCENT_WRONG, "{wrong_labels:g}% wrong", choices=STOPPING),
    ),
    "unhelpful": Item(
        "Not in the paper: steps without a helpful example",
        unhelpful.runs,
        unhelpful.write,
    ),
}


def write(name: str, scale_name: str, runs: list[Run], num_runs: int, output: pathlib.Path) -> str:
    """Writes the files of an item, and returns its Markdown.

    Args:
      name: in ITEMS.
      scale_name: in `scales.SCALES`.
      runs: its finished runs.
      num_runs: of all its runs.
      output: folder.
    """
    item, path = ITEMS[name], output / f"{name}_{scale_name}"
    text = f"{item.title} ({scale_name})\n\n"
    if name in published.CLAIMS:
        text += f"The paper: {published.CLAIMS[name]}.\n\n"
    rows, table = item.write(runs, path) if runs else ([], "")
    if rows:
        write_atomically(path.with_suffix(".csv"), tables.to_csv(rows))
    text += f"{table}\n{len(runs)} of {num_runs} runs are finished."
    text += " Means ± 95% intervals over seeds.\n" if "±" in table else "\n"
    write_atomically(path.with_suffix(".md"), text)
    return text
