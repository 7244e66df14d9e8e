"""Runs methods x ratios x seeds, and makes the tables and figures of what is there.

    python scripts/sweep.py --config=configs/mnist_imbalance.py:digits --ratios=5,10,20 --seeds=0,1
    python scripts/sweep.py --config=configs/cifar_uniform_flip.py:digits \\
      --also=configs/cifar_background_flip.py:digits --workers=2

A run that is finished is left alone and one that was stopped is resumed, so the same command
carries a sweep on; several sweeps may share a folder if they name different runs. Every finished
run under --workdir goes into the tables in --results, whichever sweep made it:
<config>-<variant>.csv, .md and .png of an imbalance config, <config>.csv and .md of a label noise
one, with all its data sets (Tables 1 and 2 of the paper).
"""

import pathlib
import runpy

from absl import flags
from ml_collections import config_flags

from reweight_jax import cli
from reweight_jax.errors import UserError, choose
from reweight_jax.methods import METHODS
from reweight_jax.paper import imbalance, noise, tables
from reweight_jax.paper.grid import grid, ratio_field, run_all
from reweight_jax.records import report

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE.py or FILE.py:VARIANT")
_ALSO = flags.DEFINE_list(
    "also", [], "More configs, FILE.py:VARIANT; --config.field=value holds for them too."
)
_METHODS = flags.DEFINE_list("methods", None, "Methods to run. Default: those the paper compares.")
_RATIOS = flags.DEFINE_list(
    "ratios",
    None,
    "Imbalance ratios, or noise ratios, to run. Default: 10,20,50,100,200, or the config's.",
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds (the paper's trials) to run.")
_FINETUNE_FROM = flags.DEFINE_enum(
    "finetune_from",
    None,
    ["none", "last", "best", "both"],
    "config.finetune_from. Default: the config's; where it adds label noise, both.",
)
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "Processes that share the runs; on a CPU, as many as cores.", lower_bound=1
)
_TOGETHER = flags.DEFINE_bool(
    "together", False, "Train the seeds of a method at once in one program; for accelerators."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/sweep", "Folder of the runs.")
_RESULTS = flags.DEFINE_string("results", "runs/results", "Folder of the tables and the pictures.")

PAPER_RATIOS = [10.0, 20.0, 50.0, 100.0, 200.0]


def load_config(name: str, overrides: dict):
    """The config FILE.py:VARIANT with `overrides`; raises UserError where there is none such."""
    file, _, variant = name.partition(":")
    try:
        config = runpy.run_path(file)["get_config"](*([variant] if variant else []))
        config.update_from_flattened_dict(overrides)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ImportError) as error:
        raise UserError(f"--also={name}: {' '.join(str(error).split())}") from None
    return config


def table_name(config) -> str:
    """Variants of a label noise config are columns of one table."""
    of_noise = ratio_field(config) == "noise_ratio"
    return config.name if of_noise else f"{config.name}-{config.variant}"


def write_tables(config, folder: pathlib.Path, results: pathlib.Path) -> None:
    """Writes and prints the table of all finished runs that belong beside those of `config`."""
    name = table_name(config)
    if ratio_field(config) == "noise_ratio":
        rows = noise.collect(folder, name)
        text = noise.to_markdown(rows)
    else:
        rows = imbalance.collect(folder / name)
        text = imbalance.to_markdown(rows)
        imbalance.draw(rows, results / f"{name}.png")
    report.write_atomically(results / f"{name}.csv", tables.to_csv(rows))
    report.write_atomically(results / f"{name}.md", text)
    print(f"\n{text}", end="")


def main(argv):
    cli.check_arguments(argv, _CONFIG.value)
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
    folder = cli.make_folder("--workdir", _WORKDIR.value)
    results = cli.make_folder("--results", _RESULTS.value)
    runs = []
    for config in configs:
        of_noise = ratio_field(config) == "noise_ratio"
        methods = _METHODS.value or (noise if of_noise else imbalance).METHODS
        its_ratios = ratios or ([config.data.noise_ratio] if of_noise else PAPER_RATIOS)
        if _FINETUNE_FROM.value:
            config.finetune_from = _FINETUNE_FROM.value
        elif of_noise and "finetune_from" not in overrides:
            config.finetune_from = "both"
        its_folder = folder / f"{config.name}-{config.variant}"
        runs += grid(config, its_folder, methods, its_ratios, seeds, _TOGETHER.value)
    run_all(runs, _WORKERS.value)
    written = set()
    for config in configs:
        name = table_name(config)
        if name not in written:
            write_tables(config, folder, results)
        written.add(name)


if __name__ == "__main__":
    cli.run(main, resumes=True)
