"""What the benchmark scripts share: steps that are taken, and numbers about them."""

import jax
import programs as benchmark
import pytest

NETWORK = benchmark.network("resnet", n=8, m=4, depth=8)


def test_a_program_says_what_it_costs():
    programs = {name: benchmark.compile_step(NETWORK, name) for name in ("plain", "jvp")}
    assert all(program.temporary_bytes > 0 for program in programs.values())
    assert all(program.compile_seconds > 0 for program in programs.values())
    # Forward passes of the convolutions: 3 a plain step, 3 m / n + 5 of reweighting.
    ratio = programs["jvp"].flops / programs["plain"].flops
    assert ratio == pytest.approx((3 * 4 / 8 + 5) / 3, rel=0.1)
    times = benchmark.time_in_turns({name: p.run for name, p in programs.items()}, 3)
    assert all(len(own) == 3 and min(own) > 0 for own in times.values())


def test_numbers_of_turns():
    assert benchmark.quartiles([4.0, 1.0, 2.0, 3.0, 10.0]) == {"ms": 3.0, "low": 2.0, "high": 4.0}
    # A slow turn is in both programs: the ratio of the medians would be 2.5.
    assert benchmark.ratio([2.0, 20.0, 10.0], [1.0, 10.0, 4.0]) == 2.0


def test_a_kept_clean_gradient_is_not_computed():
    fresh, kept = (benchmark.compile_step(NETWORK, "jvp", fresh=fresh) for fresh in (True, False))
    assert kept.temporary_bytes < fresh.temporary_bytes


@pytest.mark.parametrize("num_devices", [1, 2])
def test_steps_on_devices(num_devices):
    run = benchmark.compile_on_devices(NETWORK, "jvp", jax.local_devices()[:num_devices])
    assert min(benchmark.time_in_turns({"jvp": run}, 2)["jvp"]) > 0
