"""Runs the tests that need programs compiled as users compile them in a process of their own."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
from as_compiled import FUSED

TESTS = pathlib.Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="all tests are compiled so")
def test_bit_for_bit_as_users_compile():
    files = [TESTS / "data" / "streamed_runs_test.py", TESTS / "train" / "step_test.py"]
    chosen = ["-k", "streamed_runs_are or per_dispatch_change", "-m", "slow or not slow"]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-rs", *chosen, *files]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    flags = f"{FUSED} --xla_cpu_parallel_codegen_split_count=32"  # the default of XLA
    environment["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} {flags}"
    options = {"capture_output": True, "text": True, "cwd": TESTS.parent}
    done = subprocess.run(command, env=environment, **options)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout and "skipped" not in done.stdout, done.stdout
