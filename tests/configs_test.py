"""Every config file: fields of default.py and no others, a command in its docstring, two steps."""

import configparser
import importlib
import pathlib

import jax
import pytest
from ml_collections import ConfigDict
from whole_runs import train_undrawn

from reweight_jax.configs import default
from reweight_jax.train.config import check_config

FILES = sorted(pathlib.Path(default.__file__).parent.glob("[!_]*.py"))


def types(config: ConfigDict, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from types(value, f"{prefix}{name}.")
        else:
            yield prefix + name, type(value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_configs_override_and_never_add(path):
    module = importlib.import_module(f"reweight_jax.configs.{path.stem}")
    config = module.get_config()
    assert list(types(config)) == list(types(default.get_config()))
    assert config.name == path.stem
    check_config(config)
    if path.stem != "default":
        assert f"python -m reweight_jax.main --config=configs/{path.name}" in module.__doc__


@pytest.mark.slow
def test_default_config_on_all_ten_digits(tmp_path):
    config = default.get_config()
    config.data.name = "digits"
    config.num_steps = config.log_every_steps = 2
    config.eval_every_steps = config.checkpoint_every_steps = 2
    result = train_undrawn(config, tmp_path, jax.devices()[:1])
    assert result["last"]["step"] == 2
    # Ten logits near zero: the loss of a guess is log 10 = 2.3, and two steps do not change that.
    assert 1.5 < result["last"]["test_loss"] < 4


def test_a_field_that_is_not_in_default_is_an_error():
    config = default.get_config()
    with pytest.raises(AttributeError, match="learning_rate"):
        config.lerning_rate = 0.1
    with pytest.raises(AttributeError, match="num_clean"):
        config.data.num_claen = 3


def test_setup_lists_every_folder_of_the_package():
    """A folder that setup.cfg does not name would be missing from an installation."""
    root = pathlib.Path(__file__).resolve().parents[1]
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    listed = set(setup["options"]["packages"].split()) - {"reweight_jax.configs"}
    folders = {path.parent for path in (root / "reweight_jax").rglob("*.py")}
    assert listed == {".".join(folder.relative_to(root).parts) for folder in folders}
