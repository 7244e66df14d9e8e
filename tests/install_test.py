"""The package as pip installs it: with its configs, and without a checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = {path.name for path in (ROOT / "configs").glob("*.py")}


@pytest.mark.slow
def test_a_wheel_runs_its_configs_from_any_folder(tmp_path):
    pip = [sys.executable, "-m", "pip"]
    source = tmp_path / "source"  # a build leaves files beside what it builds
    skipped = shutil.ignore_patterns(".git", "build", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skipped)
    build = [*pip, "wheel", "-q", "--no-deps", "-w", tmp_path / "wheel", source]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "wheel").iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"reweight_jax/configs/{name}" for name in CONFIGS} <= names
    assert not any(name.startswith(("configs/", "tests/")) for name in names)
    target, empty = tmp_path / "site", tmp_path / "empty"
    install = [*pip, "install", "-q", "--no-deps", "--no-compile", "--target", target, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(target), "JAX_PLATFORMS": "cpu"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # it compiles longer than it trains
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "reweight_jax.main", "--workdir=run"),
            *("--config=configs/mnist_imbalance.py:digits", "--config.num_steps=20"),
        ],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert "test error, last step" in finished.stdout
    assert (empty / "run" / "result.json").exists()


def test_importing_the_package_imports_nothing_that_only_some_users_need():
    code = (
        "import sys, reweight_jax, reweight_jax.train.loop, reweight_jax.api\n"
        "print(*({'tensorflow', 'tensorflow_datasets', 'grain', 'pandas', 'sklearn', 'torch'}"
        " & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert finished.stdout.split() == [], finished.stderr
