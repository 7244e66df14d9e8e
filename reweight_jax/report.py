"""The label report of a finished run, at other rates: nothing is trained, no data are read.

    python -m reweight_jax.report --workdir=DIR [--false_alarm_rate=0.02] [--output=FOLDER]

It writes suspects.csv and label_report.html, by default into the run's folder.
"""

from absl import flags

from reweight_jax import cli
from reweight_jax.errors import UserError
from reweight_jax.labels.sections import plural
from reweight_jax.paths import expand
from reweight_jax.records import judged
from reweight_jax.records.workdir import write_atomically

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to. Default: the run's.")
_FALSE_ALARM_RATE = flags.DEFINE_float(
    "false_alarm_rate", None, "Mean share of the right labels that may be called suspect."
)
_FALSE_DISCOVERY_RATE = flags.DEFINE_float(
    "false_discovery_rate", None, "Mean share of the suspects that may be right, instead."
)


def main():
    if not _WORKDIR.value:
        raise UserError("--workdir is missing")
    folder = expand(_WORKDIR.value)
    rates = {
        "false_alarm_rate": _FALSE_ALARM_RATE.value,
        "false_discovery_rate": _FALSE_DISCOVERY_RATE.value,
    }
    if None not in rates.values():
        raise UserError("--false_alarm_rate and --false_discovery_rate: give one of the two")
    files, judgement = judged.render(folder, **rates)
    summary = judgement.summary
    output = cli.make_folder("--output", _OUTPUT.value or folder)
    for name, content in files.items():
        write_atomically(output / name, content)
    for note in summary["notes"]:
        print(note)
    print(f"{plural(summary['num_suspects'], 'suspect')} of {summary['num_examples']:,} labels")
    print("\n".join(str(output / name) for name in files))


if __name__ == "__main__":
    cli.run(main)
