"""Many runs: methods x ratios x seeds of a config.

A finished run is left as it is and one that was stopped is resumed, so the same grid again goes on
where it was stopped.
"""

import concurrent.futures
import itertools
import json
import multiprocessing
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from reweight_jax import startup
from reweight_jax.errors import UserError
from reweight_jax.paper.tables import NOT_COMPARED
from reweight_jax.records.workdir import flatten, read_run, with_defaults
from reweight_jax.train.config import load_experiment
from reweight_jax.train.loop import train
from reweight_jax.train.phases import phases_of

CLEAN_ONLY_STEPS = 2_000  # at most: the clean set is small


class Run(NamedTuple):
    """One run: a ConfigDict and the folder of the run."""

    config: Any
    workdir: pathlib.Path


def ratio_field(config) -> str:
    """Returns the field of `config.data` that a grid varies: noise_ratio or imbalance_ratio."""
    return "imbalance_ratio" if config.data.imbalance_ratio else "noise_ratio"


def grid(config, folder: pathlib.Path, methods, ratios, seeds) -> list[Run]:
    """Returns the runs of methods x ratios x seeds, in ratio<r>/<method>/seed<s> under `folder`.

    s_model_conf starts from the baseline of its ratio and seed. clean_only is not fine-tuned, and
    has at most CLEAN_ONLY_STEPS steps. `config` has the fields that all runs share.
    """
    runs = []
    for seed, ratio, method in itertools.product(seeds, ratios, methods):
        run_config = config.copy_and_resolve_references()
        run_config.method, run_config.seed, run_config.trial = method, seed, seed
        run_config.data[ratio_field(config)] = ratio
        ratio_folder = folder / f"ratio{ratio:g}"
        if method == "clean_only":
            run_config.num_steps = min(config.num_steps, CLEAN_ONLY_STEPS)
            run_config.finetune_from = "none"
        if method == "s_model_conf":
            baseline = str(ratio_folder / "baseline" / "seed{seed}")
            confusion_from = config.confusion_from or baseline
            run_config.confusion_from = confusion_from.replace("{seed}", str(seed))
        runs.append(Run(run_config, ratio_folder / method / f"seed{seed}"))
    return runs


def run_all(runs: list[Run], workers: int = 1) -> None:
    """Runs those of `runs` that are not finished.

    Args:
      runs: in any order; those that start from another run's result are run last.
      workers: processes that share the runs and, on Linux, the cores evenly; for CPUs.

    Raises:
      UserError: of the first run that fails with one, with its folder; runs that have not begun by
        then are not started.
    """
    runs = list({run.workdir: run for run in runs}.values())  # each folder once
    first = [run for run in runs if not run.config.confusion_from]
    then = [run for run in runs if run.config.confusion_from]
    for stage in (first, then):
        missing = [run for run in stage if not is_finished(run)]
        if workers == 1 or len(missing) < 2:
            for run in missing:
                _run(run)
        else:  # bars of several processes would overwrite each other
            calls = [(run, False) for run in missing]
            for _ in side_by_side(_run, calls, workers):
                pass


def side_by_side(function: Callable, calls: list[tuple], workers: int) -> Iterator:
    """Calls `function` in processes that share the cores evenly; yields results as they come.

    Args:
      function: of a module, so that a process can import it.
      calls: the arguments of each call.
      workers: number of processes.

    Raises:
      Exception: the first one of a call; those that have not begun by then are not made.
    """
    context = multiprocessing.get_context("spawn")  # JAX has threads, so fork would not do
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, _begin_worker, (context.Value("i", 0), workers)
    ) as pool:
        futures = [pool.submit(function, *arguments) for arguments in calls]
        for future in concurrent.futures.as_completed(futures):
            if future.exception():
                pool.shutdown(cancel_futures=True)
            yield future.result()


def is_finished(run: Run) -> bool:
    """Returns whether the folder has the result of this config, all its steps and phases.

    It only reads. With a run of another config in the folder it is False: `train` then raises an
    error that names the field.
    """
    try:
        config, result = read_run(run.workdir)
        config = with_defaults(config)
    except UserError:  # it is run again, and says what is wrong
        return False
    wanted = flatten(json.loads(run.config.to_json()))
    compared = wanted.keys() - (NOT_COMPARED - {"seed", "trial"})
    if any(config.get(name) != wanted[name] for name in compared):
        return False
    settles = result.get("settled", True)
    phases = {phase.name for phase in phases_of(run.config, settles=settles)}
    return result["num_steps"] == run.config.num_steps and phases <= result.keys()


def _run(run, progress=True):
    print(f"{run.workdir} ...", file=sys.stderr, flush=True)
    try:
        result = train(load_experiment(run.config), run.workdir, progress=progress)
    except UserError as error:
        raise UserError(f"{run.workdir}: {error}") from error
    error = result["last"].get("test_error")
    print(f"{run.workdir}: " + ("done" if error is None else f"test error {error:.2%}"), flush=True)


def _begin_worker(counter, workers):
    """Prepares a worker; a core of its own is twice as fast as a share of two (measured)."""
    startup.prepare()
    startup.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the sweep reports Ctrl-C
    startup.take_cores(counter, workers)
