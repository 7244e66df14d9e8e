"""Downloads and prepares TFDS sets once, for reading without TensorFlow ever after.

    pip install -e '.[tfds]'
    python scripts/prepare_data.py mnist cifar10 cifar100

Needs a network and TensorFlow, for this step alone; without either it says so in one line. A set
that is prepared already is left alone. They go to --data_dir, else TFDS_DATA_DIR, else
~/tensorflow_datasets.
"""

from absl import flags

from reweight_jax import cli
from reweight_jax.data.sources import TFDS_SETS, prepare
from reweight_jax.errors import UserError, choose

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared sets.")


def main(argv):
    names = argv[1:]
    if not names:
        raise UserError(f"name the sets to prepare: {' '.join(TFDS_SETS)}")
    for name in names:
        choose("data set", name, TFDS_SETS)
    for name in names:
        print(f"{name}: {'prepared' if prepare(name, _DATA_DIR.value) else 'already prepared'}")


if __name__ == "__main__":
    cli.run(main)
