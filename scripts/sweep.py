"""Runs methods x ratios x seeds, and makes tables and figures of all finished runs.

    python scripts/sweep.py --config=configs/mnist_imbalance.py:digits --ratios=5,10,20 --seeds=0,1
    python scripts/sweep.py --config=configs/cifar_uniform_flip.py:digits \\
      --also=configs/cifar_background_flip.py:digits --workers=2

A finished run is left as it is and one that was stopped is resumed, so the same command again goes
on with a sweep. Several sweeps may share a folder if their runs differ in config, method, ratio or
seed. Every finished run under --workdir goes into the tables in --results, whichever sweep made it:
<config>-<variant>.csv, .md and .png of an imbalance config (Figure 2 of the paper); <config>.csv
and .md of any other config, all its data sets in one table (Tables 1 and 2). Data of your own need
a test set.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from reweight_jax import cli
from reweight_jax.errors import UserError, choose, one_line
from reweight_jax.methods import METHODS
from reweight_jax.paper import figures, imbalance, noise, published, tables
from reweight_jax.paper.grid import grid, ratio_field, run_all
from reweight_jax.paper.scales import SCALES
from reweight_jax.paths import expand
from reweight_jax.records.workdir import write_atomically
from reweight_jax.train.checks import check_config
from reweight_jax.train.phases import FINETUNE_FROM

_CONFIG = cli.define_config("FILE.py or FILE.py:VARIANT")
_ALSO = flags.DEFINE_list(
    "also", [], "More configs, FILE.py:VARIANT; --config.field=value sets their fields too."
)
_METHODS = flags.DEFINE_list("methods", None, "Methods to run. Default: those the paper compares.")
_RATIOS = flags.DEFINE_list(
    "ratios",
    None,
    "Imbalance ratios, or noise ratios, to run. Default: 10,20,50,100,200 (digits: 5,10,20), or "
    "the noise ratio of the config.",
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds (the paper's trials) to run.")
_FINETUNE_FROM = flags.DEFINE_enum(
    "finetune_from",
    None,
    list(FINETUNE_FROM),
    "config.finetune_from. Default: the config's; with label noise, both.",
)
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "Processes that share the runs; on a CPU, as many as cores.", 1, 256
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/sweep", "Folder of the runs.")
_RESULTS = flags.DEFINE_string("results", "runs/results", "Folder of the tables and figures.")


def load_config(name: str, overrides: dict):
    """Returns the config FILE.py:VARIANT with `overrides`; raises UserError if it has an error."""
    try:
        config = cli.load_config(name)
        config.update_from_flattened_dict(overrides)
        check_config(config)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        text = str(error).removeprefix("--config: ")
        raise UserError(f"--also={name}: {one_line(text)}") from None
    return config


def is_imbalanced(config) -> bool:
    """Returns whether the config belongs to Figure 2, not to tables such as 1 and 2."""
    return ratio_field(config) == "imbalance_ratio"


def table_name(config) -> str:
    """Returns the name of the config's table; the variants of a noise config share one."""
    return f"{config.name}-{config.variant}" if is_imbalanced(config) else config.name


def runs_of(config, folder: pathlib.Path, ratios: list[float], seeds: list[int]) -> list:
    """Returns the runs of one config: the ratios and methods of the flags, else the paper's."""
    if is_imbalanced(config):
        scale = SCALES["digits" if config.variant == "digits" else "full"]
        methods, default_ratios = published.IMBALANCE_METHODS, sorted(scale.ratios)
    else:
        methods, default_ratios = published.NOISE_METHODS, [config.data.noise_ratio]
    folder = folder / f"{config.name}-{config.variant}"
    return grid(config, folder, _METHODS.value or methods, ratios or default_ratios, seeds)


def write_tables(config, folder: pathlib.Path, results: pathlib.Path) -> None:
    """Writes and prints the table that the runs of `config` belong to, with all its runs."""
    name = table_name(config)
    if is_imbalanced(config):
        rows = imbalance.collect(folder / name)
        text = imbalance.to_markdown(rows)
        figures.draw_imbalance(rows, results / f"{name}.png")
    else:
        rows = noise.collect(folder, name)
        if not rows:
            raise UserError(f"{folder}: no run has a test accuracy, which the table is of")
        text = noise.to_markdown(rows)
    write_atomically(results / f"{name}.csv", tables.to_csv(rows))
    write_atomically(results / f"{name}.md", text)
    print(f"\n{text}", end="")


def main():
    cli.check_config(_CONFIG.value)
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    configs = [_CONFIG.value, *(load_config(name, overrides) for name in _ALSO.value)]
    try:
        ratios = [float(ratio) for ratio in _RATIOS.value or []]
        seeds = [int(seed) for seed in _SEEDS.value]
    except ValueError as error:
        raise UserError(f"--ratios takes numbers and --seeds integers ({error})") from None
    if not seeds or _METHODS.value == [] or _RATIOS.value == []:
        raise UserError("--methods, --ratios and --seeds: name at least one of each")
    for method in _METHODS.value or []:
        choose("--methods", method, METHODS)
    folder, results, runs = expand(_WORKDIR.value), expand(_RESULTS.value), []
    for config in configs:
        if _FINETUNE_FROM.value:
            config.finetune_from = _FINETUNE_FROM.value
        elif config.data.noise != "none" and "finetune_from" not in overrides:
            config.finetune_from = "both"
        runs += runs_of(config, folder, ratios, seeds)
    for run in runs:
        check_config(run.config)  # all of them before the first one runs
    cli.make_folder("--workdir", folder)
    cli.make_folder("--results", results)
    run_all(runs, _WORKERS.value)
    for config in {table_name(config): config for config in configs}.values():
        write_tables(config, folder, results)


if __name__ == "__main__":
    cli.run(main, resumes=True)
