"""The judgement of a finished run and its label report, made from its folder without its data."""

import pathlib

from reweight_jax.errors import UserError, prefix
from reweight_jax.labels import quality
from reweight_jax.labels.report import pages
from reweight_jax.records.workdir import read_run
from reweight_jax.sealed import read_npz


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
    folder = pathlib.Path(folder)
    config, result = _read(read_run, folder)
    if false_discovery_rate is None and false_alarm_rate is not None:
        false_discovery_rate = 0.0
    rates = {"false_alarm_rate": false_alarm_rate, "false_discovery_rate": false_discovery_rate}
    examples = _read(read_npz, folder / "examples.npz", result)
    calibration = _read(read_npz, folder / "calibration.npz", result, missing=None)
    try:
        labels = config.get("labels", {})
        rates = {name: labels.get(name) if rate is None else rate for name, rate in rates.items()}
        rates = {name: rate for name, rate in rates.items() if rate is not None}
        facts = config["dataset"]
        options = {"task": config["task"], "num_outputs": facts["num_outputs"]}
        options["classes"] = facts["classes"]
        with prefix(str(folder)):
            judgement = quality.judge(examples, calibration, **options, **rates)
        return config, result, examples, judgement
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{folder}: a run of another version, or damaged ({error!r})") from None


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
    folder = pathlib.Path(folder)
    config, result, examples, judgement = judge_run(folder, **rates)
    suspects = _read(read_npz, folder / "suspect_inputs.npz", result, missing={})
    rows = suspects.pop("row", None)
    nested = {name.partition(".")[2]: array for name, array in suspects.items() if "." in name}
    inputs = nested or suspects.get("input")
    try:
        return pages(config, result, examples, judgement, inputs, rows), judgement
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"{folder}: a run of another version, or damaged ({error!r})") from None


def _read(reader, path, *arguments, missing=...):
    try:
        return reader(path, *arguments)
    except FileNotFoundError as error:
        if missing is not ...:
            return missing
        lacking = pathlib.Path(error.args[0])
        raise UserError(f"{lacking.parent}: no finished run ({lacking.name} is missing)") from None
