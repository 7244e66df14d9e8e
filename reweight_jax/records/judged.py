"""The judgement of a finished run and its label report, made from its folder without its data."""

import contextlib
import pathlib

from reweight_jax.errors import UserError, prefix
from reweight_jax.labels import quality
from reweight_jax.labels.report import pages
from reweight_jax.records.workdir import read_run
from reweight_jax.sealed import MissingError, read_npz


def judge_run(
    folder: pathlib.Path,
    *,
    false_alarm_rate: float | None = None,
    false_discovery_rate: float | None = None,
) -> tuple[dict, dict, dict, quality.Judgement]:
    """Returns (config, result, examples, judgement), read from the folder of a finished run.

    Args:
      folder: of the run. Read are config.json, result.json, examples.npz and calibration.npz.
      false_alarm_rate, false_discovery_rate: of `quality.judge`; None: those of the config. A
        false-alarm rate that is given sets the other one to 0, if that is not given too.

    Raises:
      UserError: a file is missing, damaged or of another run, or a rate cannot be used.
    """
    config, result = read_run(folder)
    examples = read_npz(folder / "examples.npz", result)
    calibration = _if_there(folder / "calibration.npz", result)
    if false_discovery_rate is None and false_alarm_rate is not None:
        false_discovery_rate = 0.0
    rates = {"false_alarm_rate": false_alarm_rate, "false_discovery_rate": false_discovery_rate}
    rates = {name: rate for name, rate in rates.items() if rate is not None}
    with _of_this_version(folder), prefix(str(folder)):
        options = {name: config["dataset"][name] for name in ("num_outputs", "classes")}
        options |= {"task": config["task"]} | config.get("labels", {}) | rates
        return config, result, examples, quality.judge(examples, calibration, **options)


def render(
    folder: pathlib.Path, **rates: float | None
) -> tuple[dict[str, bytes], quality.Judgement]:
    """Returns the `pages` of a finished run and the judgement in them.

    Args:
      folder: of the run. Read are suspect_inputs.npz and what `judge_run` reads.
      **rates: as in `judge_run`.

    Raises:
      UserError: a file is missing or damaged, or a rate cannot be used.
    """
    config, result, examples, judgement = judge_run(folder, **rates)
    suspects = _if_there(folder / "suspect_inputs.npz", result) or {}
    rows = suspects.pop("row", None)
    nested = {name.partition(".")[2]: array for name, array in suspects.items() if "." in name}
    inputs = nested or suspects.get("input")
    with _of_this_version(folder):
        return pages(config, result, examples, judgement, inputs, rows), judgement


def _if_there(path, result):
    try:
        return read_npz(path, result)
    except MissingError:
        return None


@contextlib.contextmanager
def _of_this_version(folder):
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{folder}: a run of another version, or damaged ({error!r})") from None
