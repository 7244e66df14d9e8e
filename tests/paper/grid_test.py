"""scripts/sweep.py: grids of runs, and what their tables read of them."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from reweight_jax.errors import UserError
from reweight_jax.paper import imbalance, tables
from reweight_jax.paper.grid import grid, run_all


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
