"""Downloads and prepares TFDS sets once; after that they are read without TensorFlow.

    pip install -e '.[tfds]'
    python scripts/prepare_data.py mnist cifar10 cifar100

This needs a network and TensorFlow, and ends in one line if one of them is missing. A set that is
already prepared is left as it is. The sets are written to --data_dir, else to TFDS_DATA_DIR, else
to ~/tensorflow_datasets.
"""

from absl import flags

from reweight_jax import cli
from reweight_jax.data.sources import TFDS_SETS, prepare
from reweight_jax.errors import UserError, choose

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared sets.")


def main(*names):
    if not names:
        raise UserError(f"name the sets to prepare: {' '.join(TFDS_SETS)}")
    for name in names:
        choose("data set", name, TFDS_SETS)
    for name in names:
        print(f"{name}: {'prepared' if prepare(name, _DATA_DIR.value) else 'already prepared'}")


if __name__ == "__main__":
    cli.run(main, takes_names=True)
