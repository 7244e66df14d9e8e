"""The command line's answers to mistakes: one line, status 1, no traceback."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from reweight_jax import cli
from reweight_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = "--config=configs/mnist_imbalance.py:digits"


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_one_line(finished, *parts):
    assert finished.returncode == 1, finished
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1, finished
    for part in parts:
        assert part in finished.stderr
    assert "Traceback" not in finished.stderr


def test_an_output_file_is_one_that_can_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.output_file("--json", "~/new/a.json") == tmp_path / "new" / "a.json"
    assert (tmp_path / "new").is_dir()
    assert cli.output_file("--json", None) is None
    with pytest.raises(UserError, match="--json .*/new: is a folder"):
        cli.output_file("--json", "~/new")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--json .*/file: cannot be used"):
        cli.output_file("--json", "~/file/a.json")


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ([], ["--config is missing"]),
        (["--config=configs/none.py"], ["configs/none.py"]),
        (["--config=configs/mnist_imbalance.py:svhn"], ["no variant 'svhn'", "mnist, digits"]),
        ([CONFIG, "--config.metod=x"], ["--config", "'metod'"]),
        ([CONFIG, "--config.data.nam=x"], ["--config", "'nam'"]),
        ([CONFIG, "--config.batch_size=many"], ["config.batch_size", "'many'"]),
        ([CONFIG, "--config.method=magic"], ["config.method", "'magic'", "hard_mining, "]),
        ([CONFIG, "--config.model.name=vgg"], ["config.model.name", "'vgg'", "lenet"]),
        ([CONFIG, "--config.model.dtype=int8"], ["config.model.dtype", "bfloat16, float32"]),
        ([CONFIG, "--config.epsilon_method=x"], ["config.epsilon_method", "jvp, lookahead"]),
        ([CONFIG, "--config.data.clean_in_train=x"], ["clean_in_train", "always, baselines"]),
        ([CONFIG, "--config.data.name=svhn"], ["config.data.name", "'svhn'", "digits"]),
        ([CONFIG, "--config.data.num_clean=300"], ["config.data.num_clean", "class"]),
        ([CONFIG, "--config.data.noise=x"], ["config.data.noise", "uniform_flip"]),
        ([CONFIG, "--config.data.noise_ratio=0.4"], ["noise_ratio: 0.4", "noise is none"]),
        ([CONFIG, "--config.method=s_model_conf"], ["config.confusion_from: empty"]),
        ([CONFIG, "--config.confusion_from=x", "--config.method=s_model_conf"], ["x/result.json"]),
        ([CONFIG, "--config.finetune_from=x"], ["config.finetune_from", "best, both, last"]),
        ([CONFIG, "--config.finetune_steps=0"], ["config.finetune_steps: 0"]),
        ([CONFIG, "--config.learning_rate=nan"], ["config.learning_rate: nan"]),
        ([CONFIG, "--config.momentum=1.5"], ["config.momentum: 1.5", "below 1"]),
        ([CONFIG, "--config.lr_drop_steps=(-5,)"], ["config.lr_drop_steps: (-5,)"]),
        ([CONFIG, "--config.lr_drop_steps=('a',)"], ["config.lr_drop_steps: ('a',)"]),
        ([CONFIG, "--config.lr_drop_steps=(1.5,)"], ["config.lr_drop_steps: (1.5,)"]),
        ([CONFIG, "--config.model.name=resnet", "--config.model.depth=9"], ["model.depth: 9"]),
        ([CONFIG, "--config.num_steps=0"], ["config.num_steps: 0"]),
        ([CONFIG, "--config.seed=-1"], ["config.seed: -1", "2**32"]),
        ([CONFIG, "--config.data.imbalance_ratio=nan"], ["imbalance_ratio: nan"]),
        ([CONFIG, "--config.data.classes=(4.0,9)"], ["config.data.classes"]),
        ([CONFIG, "--config.eval_every_steps=150"], ["eval_every_steps: 150", "log_every_steps"]),
        ([CONFIG, "--config.steps_per_dispatch=7"], ["config.steps_per_dispatch: 7"]),
        ([CONFIG, "--workdir=/dev/null/run"], ["--workdir /dev/null/run"]),
        ([CONFIG, "--process_id=1"], ["--coordinator_address: missing"]),
        ([CONFIG, "stray"], ["'stray'"]),
        ([CONFIG, "--speed=9"], ["'speed'"]),
    ],
    ids=lambda value: " ".join(value).replace(CONFIG, "").strip() if value else "none",
)
def test_a_mistake_is_one_line(arguments, parts):
    assert_one_line(command("-m", "reweight_jax.main", *arguments), *parts)


def test_batch_size_and_devices():
    finished = command("-m", "reweight_jax.main", CONFIG, JAX_NUM_CPU_DEVICES="3")
    assert_one_line(finished, "config.batch_size: 50", "3 devices")


def test_a_missing_data_set(tmp_path):
    finished = command(
        "-m",
        "reweight_jax.main",
        "--config=configs/mnist_imbalance.py",
        TFDS_DATA_DIR=str(tmp_path),
    )
    assert_one_line(finished, f"mnist is not prepared in {tmp_path}")
    for arguments, parts in (
        (["svhn"], ["'svhn'", "cifar10, cifar100, mnist"]),
        ([], ["mnist cifar10 cifar100"]),
        (["cifar100", f"--data_dir={tmp_path}"], [f"cifar100 is not prepared in {tmp_path}"]),
    ):
        assert_one_line(command("scripts/prepare_data.py", *arguments), *parts)


def test_a_malformed_file_stops_before_anything_is_written(tmp_path):
    np.savez(tmp_path / "bad.npz", train_image=np.zeros((3, 4, 4)))
    finished = command(
        "-m",
        "reweight_jax.main",
        CONFIG,
        "--config.data.name=npz",
        f"--config.data.path={tmp_path / 'bad.npz'}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert_one_line(finished, "bad.npz: no array train_label")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resumes", [False, True])
def test_an_interrupt_is_one_line(resumes, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.startup, "prepare", lambda: None)  # of a process of its own
    monkeypatch.setattr(cli.app, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.run(None, resumes=resumes)
    assert ended.value.code == 130
    (line,) = capsys.readouterr().err.split("\n")[1:-1]
    assert line.startswith("interrupted") and resumes == line.endswith("from the last checkpoint")
