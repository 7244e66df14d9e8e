"""Many runs, side by side: methods x ratios x seeds of a config.

A run that is finished is left alone and one that was stopped is resumed, so the same grid carries
on where it was.
"""

import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import sys
from typing import Any, NamedTuple

from reweight_jax import startup
from reweight_jax.errors import UserError
from reweight_jax.records import report
from reweight_jax.train.loop import phases_of, train_and_evaluate
from reweight_jax.train.run import folders_of

CLEAN_ONLY_STEPS = 2_000  # at most: the clean set is small


class Run(NamedTuple):
    """One run: a ConfigDict and the folder it goes into."""

    config: Any
    workdir: pathlib.Path


def ratio_field(config) -> str:
    """The field of `config.data` that a grid varies: the noise ratio, or the imbalance ratio."""
    return "imbalance_ratio" if config.data.noise == "none" else "noise_ratio"


def grid(config, folder: pathlib.Path, methods, ratios, seeds, together=False) -> list[Run]:
    """Returns the runs of methods x ratios x seeds, in folders ratio*/<method>/seed* of `folder`.

    s_model_conf starts from the baseline of its ratio and seed. What trains on the clean set alone
    is not fine-tuned, and takes at most CLEAN_ONLY_STEPS.

    Args:
      config: what all of them have in common.
      together: whether the seeds, which must then follow each other, are one run of all of them in
        one program (config.num_seeds), with the same folders.
    """
    if together and list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
        raise UserError(f"--together: seeds {seeds}; they must follow each other, as 0,1,2")
    runs = []
    for seed, ratio, method in itertools.product(seeds[:1] if together else seeds, ratios, methods):
        one = config.copy_and_resolve_references()
        one.method, one.seed, one.trial = method, seed, seed
        one.data[ratio_field(config)] = ratio
        here = folder / f"ratio{ratio:g}"
        if method == "clean_only":
            one.num_steps = min(config.num_steps, CLEAN_ONLY_STEPS)
            one.finetune_from = "none"
        if method == "s_model_conf" and not config.confusion_from:
            one.confusion_from = str(here / "baseline" / "seed{seed}")
        if together and len(seeds) > 1:
            one.num_seeds = len(seeds)
            runs.append(Run(one, here / method))
        else:
            one.confusion_from = one.confusion_from.replace("{seed}", str(seed))
            runs.append(Run(one, here / method / f"seed{seed}"))
    return runs


def run_all(runs: list[Run], workers: int = 1) -> None:
    """Runs what has no result.json of these steps and phases yet.

    Args:
      runs: those that start from another's result come last of all, whatever their order here.
      workers: processes that share the runs, and on Linux the cores, evenly; for CPUs.

    Raises:
      UserError: of the first run that ends in one, with its folder; the rest are not started.
    """
    runs = list({run.workdir: run for run in runs}.values())  # each folder once
    first = [run for run in runs if not run.config.confusion_from]
    then = [run for run in runs if run.config.confusion_from]
    for stage in (first, then):
        missing = [run for run in stage if not _is_finished(run)]
        if workers == 1 or len(missing) < 2:
            for run in missing:
                _run(run)
        else:
            _run_side_by_side(missing, workers)


def _is_finished(run):
    """Whether it has come to its end; a run of many seeds, if each of them has, however run."""
    phases = {phase.name for phase in phases_of(run.config)}
    for config, workdir in folders_of(run.config, run.workdir):
        path = report.open_workdir(workdir, config) / "result.json"
        if not path.exists():
            return False
        result = json.loads(path.read_text())
        if result["num_steps"] != run.config.num_steps or not phases <= result.keys():
            return False
    return True


def _run(run):
    print(f"{run.workdir} ...", file=sys.stderr, flush=True)
    try:
        result = train_and_evaluate(run.config, run.workdir)
    except UserError as error:
        raise UserError(f"{run.workdir}: {error}") from error
    print(f"{run.workdir}: test error {result['last']['test_error']:.2%}", flush=True)


def _run_side_by_side(runs, workers):
    context = multiprocessing.get_context("spawn")  # JAX has threads: no fork
    quiet = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # bars of several processes would overwrite each other
    try:
        with concurrent.futures.ProcessPoolExecutor(
            workers, context, _begin_worker, (context.Value("i", 0), workers)
        ) as pool:
            futures = [pool.submit(_run, run) for run in runs]
            for future in concurrent.futures.as_completed(futures):
                if future.exception():
                    pool.shutdown(cancel_futures=True)
                    raise future.exception()
    finally:
        del os.environ["TQDM_DISABLE"]
        if quiet is not None:
            os.environ["TQDM_DISABLE"] = quiet


def _begin_worker(counter, workers):
    """What a worker does first; a core of its own is worth twice a share of two (measured)."""
    startup.prepare()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for the sweep to speak of
    if not hasattr(os, "sched_setaffinity"):
        return
    with counter.get_lock():
        index, counter.value = counter.value, counter.value + 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[index % workers :: workers] or cores)
