"""The command line's answers to mistakes: one line, status 1, no traceback; and the scripts."""

import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from reweight_jax import cli
from reweight_jax.errors import UserError
from reweight_jax.paper import imbalance, tables
from reweight_jax.paper.grid import grid, run_all

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


# --- scripts/sweep.py -----------------------------------------------------------------------------


def test_grid_runs_what_is_missing(digits_config, tmp_path, capsys):
    config = digits_config(num_steps=2)
    runs = grid(config, tmp_path, ["baseline", "random"], [10.0, 5.0], [0, 1])
    run_all(runs)
    paths = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*/*/result.json"))
    assert len(paths) == 8 and pathlib.Path("ratio5/random/seed1/result.json") in paths
    before = {path: (tmp_path / path).stat().st_mtime_ns for path in paths}
    config.momentum = 0.5  # a finished run of another config is not taken for this one's
    with pytest.raises(UserError, match="ratio10/baseline/seed0: holds .* another config.momentum"):
        run_all(grid(config, tmp_path, ["baseline", "random"], [10.0, 5.0], [0, 1]))
    (tmp_path / paths[3]).unlink()
    capsys.readouterr()
    run_all(runs)
    changed = [path for path in paths if (tmp_path / path).stat().st_mtime_ns != before[path]]
    assert changed == [paths[3]]
    rows = imbalance.collect(tmp_path)
    assert [(r["imbalance_ratio"], r["method"], r["seeds"]) for r in rows] == [
        (5.0, "baseline", 2),
        (5.0, "random", 2),
        (10.0, "baseline", 2),
        (10.0, "random", 2),
    ]
    imbalance.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_mean_and_interval(tmp_path):
    # Mean 4, standard deviation 2, n = 3: half width t(0.975, 2) * 2 / sqrt(3) = 4.3027 * 1.1547.
    mean, interval = tables.mean_and_interval([2.0, 4.0, 6.0])
    assert mean == 4.0 and interval == pytest.approx(4.302653 * 1.154701, rel=1e-5)
    assert math.isnan(tables.mean_and_interval([2.0])[1])
    for seed, error in enumerate([0.02, 0.04, 0.06]):
        folder = tmp_path / "ratio200" / "reweight" / f"seed{seed}"
        folder.mkdir(parents=True)
        scores = {"test_error": error}
        result = {"method": "reweight", "num_steps": 8000, "last": scores, "best": scores}
        result |= {"steps_per_second": 10.0, "device": "1 x cpu"}
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "config.json").write_text(json.dumps({"data": {"imbalance_ratio": 200.0}}))
    rows = imbalance.collect(tmp_path)
    assert tables.to_csv(rows).splitlines()[1] == (
        "200,reweight,8000,3,0.04,0.0496828,0.04,0.0496828,10,1 x cpu"
    )
    cell = "4.00 ± 4.97 (3 seeds, 8,000 steps)"
    assert imbalance.to_markdown(rows).splitlines()[2] == f"| reweight | {cell} |"


def test_sweep_refuses_an_unknown_method():
    finished = command("scripts/sweep.py", CONFIG, "--methods=baseline,magic")
    assert_one_line(finished, "--methods", "'magic'")
    assert_one_line(command("scripts/sweep.py", CONFIG, "--ratios=ten"), "--ratios", "'ten'")


def test_benchmark_refuses(load_script):
    benchmark_step = load_script("benchmarks/step")
    with pytest.raises(UserError, match="'stray'"):
        benchmark_step.main(["step.py", "stray"])


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
