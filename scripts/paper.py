"""Makes the figures and tables of the paper, and some that it does not have, from one command each.

    python scripts/paper.py --scale=digits --workers=2          # all of it, minutes of two cores
    python scripts/paper.py --scale=small --what=fig2 --workers=2
    python scripts/paper.py --scale=full --what=table1,table2   # for an accelerator

It runs what is missing, and writes <item>_<scale>.md, .csv and .png into --output. A finished run
is left as it is and one that was stopped is resumed, so the same command goes on where it was. Runs
lie in --workdir as those of scripts/sweep.py do, and several items share them.
"""

from absl import flags

from reweight_jax import cli
from reweight_jax.errors import choose
from reweight_jax.paper import theory_figures
from reweight_jax.paper.grid import is_finished, run_all
from reweight_jax.paper.items import ITEMS, write
from reweight_jax.paper.scales import SCALES

NAMES = [*ITEMS, "theory"]
_WHAT = flags.DEFINE_list("what", NAMES, "Items: " + ", ".join(NAMES) + ". Default: all.")
_SCALE = flags.DEFINE_enum("scale", "digits", [*SCALES], "Sizes of data, networks and grids.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/paper", "Folder of the runs.")
_OUTPUT = flags.DEFINE_string("output", "runs/paper/results", "Folder of the tables and figures.")
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "Processes that share the runs; on a CPU, as many as cores.", lower_bound=1
)
_ONLY_DRAW = flags.DEFINE_bool("only_draw", False, "Draw what is finished, and run nothing.")


def main():
    for name in _WHAT.value:
        choose("--what", name, dict.fromkeys(NAMES, True))
    root = cli.make_folder("--workdir", _WORKDIR.value)
    output = cli.make_folder("--output", _OUTPUT.value)
    scale = SCALES[_SCALE.value]
    runs = {name: ITEMS[name].runs(scale, root) for name in _WHAT.value if name in ITEMS}
    if not _ONLY_DRAW.value:
        if "theory" in _WHAT.value:
            theory_figures.write(output / "theory")
        run_all([run for of_item in runs.values() for run in of_item], _WORKERS.value)
    for name, of_item in runs.items():
        finished = [run for run in of_item if is_finished(run)]
        print(f"\n{write(name, _SCALE.value, finished, len(of_item), output)}", end="")


if __name__ == "__main__":
    cli.run(main, resumes=True)
