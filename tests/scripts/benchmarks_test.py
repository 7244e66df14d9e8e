"""scripts/benchmarks: steps that are taken, the numbers about them, and what is printed."""

import json
import time
from types import SimpleNamespace as Namespace

import jax
import numpy as np
import programs as benchmark
import pytest

from reweight_jax.configs import default
from reweight_jax.data.splits import load
from reweight_jax.errors import UserError

LENET = benchmark.network("lenet", n=8, m=4)


@pytest.mark.slow
def test_a_program_says_what_it_costs():
    network = benchmark.network("resnet", n=8, m=4, depth=8)
    programs = {name: benchmark.compile_step(network, name) for name in ("plain", "jvp")}
    assert all(program.temporary_bytes > 0 for program in programs.values())
    assert all(program.compile_seconds > 0 for program in programs.values())
    # Forward passes of the convolutions: 3 a plain step, 3 m / n + 5 of reweighting.
    flops = {name: benchmark.count_operations(network, name) for name in programs}
    ratio = flops["jvp"] / flops["plain"]
    assert ratio == pytest.approx((3 * 4 / 8 + 5) / 3, rel=0.1)
    times = benchmark.time_in_turns(programs, 3)
    assert all(len(turns) == 3 and min(turns) > 0 for turns in times.values())


def test_numbers_of_turns():
    assert benchmark.quartiles([4.0, 1.0, 2.0, 3.0, 10.0]) == {"ms": 3.0, "low": 2.0, "high": 4.0}
    # A slow turn is in both programs: the ratio of the medians would be 2.5.
    assert benchmark.ratio([2.0, 20.0, 10.0], [1.0, 10.0, 4.0]) == 2.0


@pytest.mark.parametrize("num_devices", [1, 2])
def test_steps_on_devices(num_devices):
    program = benchmark.compile_step(LENET, "jvp", jax.local_devices()[:num_devices])
    assert min(benchmark.time_in_turns({"jvp": program}, 2)["jvp"]) > 0


def test_the_time_is_of_one_step_of_a_dispatch():
    programs = {steps: benchmark.Program(lambda: time.sleep(0.05), steps) for steps in (1, 25)}
    times = benchmark.time_in_turns(programs, 2)
    assert min(times[1]) >= 50 and 2 <= min(times[25]) < 50


def test_kernels_by_their_time(load_script):
    kernels = load_script("benchmarks/kernels")
    event = lambda name, start, end: Namespace(  # noqa: E731
        name=name, start_ns=start, end_ns=end, duration_ns=end - start
    )
    events = [event("a", 4_000, 5_000), event("a", 0, 1_000), event("b", 500, 4_000)]
    assert kernels.table(events, steps=2, top=1).splitlines() == [
        "2 kernels and copies a step, busy 0.003 ms",  # "a" and "b" overlap
        " us a step   times  kernel",
        "       1.8     0.5  b",
    ]


@pytest.mark.slow
def test_the_kernels_of_a_step_are_recorded(load_script):
    program = benchmark.compile_step(LENET, "plain")
    program.run()
    events = load_script("benchmarks/kernels").record(program.run)
    assert any("fusion" in event.name for event in events)


@pytest.mark.slow
def test_the_loop_is_a_whole_run(load_script):
    assert load_script("benchmarks/step").time_loop(LENET, 2) > 0


def test_step_prints_a_line_of_json_for_each_network(load_script, monkeypatch, capsys, tmp_path):
    step = load_script("benchmarks/step")
    numbers = {"ms": 2.0, "low": 1.0, "high": 3.0, "x plain": 1.0}
    monkeypatch.setattr(step, "measure", lambda network, rounds: {"plain": numbers})
    step.flags.FLAGS(["step.py", "--networks=lenet,wrn", "--noloop", f"--json={tmp_path}/a.json"])
    cache = jax.config.jax_compilation_cache_dir
    try:
        step.main()
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    expected = {"steps": {"plain": numbers}, "loop": None}
    assert lines == [
        {"network": "lenet", "n": 100, "m": 10, "rounds": 200, **expected},
        {"network": "wrn", "n": 2, "m": 2, "rounds": 20, **expected},
    ]
    assert "lenet n=100 m=10" in printed.err and "1-3" in printed.err
    written = json.loads((tmp_path / "a.json").read_text())["networks"]
    assert written["wrn"] | {"network": "wrn"} == lines[1]


def test_a_step_that_does_not_exist(load_script):
    step = load_script("benchmarks/step")
    step.flags.FLAGS(["step.py", "--steps=jpv"])
    with pytest.raises(UserError, match="--steps: unknown name 'jpv'; valid: jvp"):
        step.main()


def test_the_file_that_startup_trains_on(tmp_path):
    """The loader reads it, with clean and test images of its own."""
    network = benchmark.network("lenet")
    benchmark.write_npz(network, tmp_path / "random.npz")
    config = default.get_config()
    config.data.update({"name": "npz", "path": f"{tmp_path}/random.npz", "num_hyper_val": 100})
    data = load(config, 0)
    sizes = [None if part is None else part.size for part in data.splits]
    assert sizes == [1_900, 100, None, 100, 100] and data.num_outputs == 2
    image = data.splits.train.inputs
    assert image.shape[1:] == (28, 28, 1) and image.dtype == np.uint8
