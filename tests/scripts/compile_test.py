"""scripts/benchmarks/compile.py: what is read off a compiled program, and a whole compilation."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import ROOT
from hlo import Module
from lowering import lower_dispatch

from reweight_jax.configs import own_data
from reweight_jax.data.examples import Part
from reweight_jax.data.splits import make_data
from reweight_jax.methods import METHODS
from reweight_jax.train.config import make_experiment

TPU = """HloModule jit_run

%body.1 (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element((s32[], f32[8,128]) %p), index=1
  %f = f32[8,128]{1,0} fusion(%x), kind=kLoop, backend_config={"estimated_cycles":"100"}
  ROOT %t = (s32[], f32[8,128]{1,0}) tuple(%x, %f)
}

%condition.1 (p: (s32[], f32[8,128])) -> pred[] {
  %p = (s32[], f32[8,128]) parameter(0)
  %n = s32[] constant(25)
  ROOT %less = pred[] compare(%p, %n), direction=LT
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %c = f32[8,128]{1,0} copy(%a), backend_config={"estimated_cycles":"7"}
  %r = f32[8,128]{1,0} all-reduce-start(%c), to_apply=%add
  %w = (s32[], f32[8,128]{1,0}) while(%r), condition=%condition.1, body=%body.1
  ROOT %o = f32[8,128]{1,0} get-tuple-element(%w), index=1
}
"""

GPU = """HloModule jit_run

%fused (p0: u8[50000,128], p1: s32[4]) -> u8[4,128] {
  %p0 = u8[50000,128]{1,0} parameter(0)
  %p1 = s32[4]{0} parameter(1)
  ROOT %g = u8[4,128]{1,0} gather(%p0, %p1), slice_sizes={1,128}
}

%whole (p0: bf16[4,128]) -> f32[4,128] {
  %p0 = bf16[4,128]{1,0} parameter(0)
  ROOT %v = f32[4,128]{1,0} convert(%p0)
}

ENTRY %main (a: u8[50000,128], b: s32[4], c: bf16[4,128]) -> f32[4,128] {
  %a = u8[50000,128]{1,0} parameter(0)
  %b = s32[4]{0} parameter(1)
  %c = bf16[4,128]{1,0} parameter(2)
  %g = u8[4,128]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused
  ROOT %v = f32[4,128]{1,0} fusion(%c), kind=kLoop, calls=%whole
}
"""


def test_cycles_and_collectives_of_a_tpu():
    module = Module(TPU)
    assert module.loops() == [(25, "body.1")]
    assert module.cycles("body.1") == 100 and module.cycles() == 25 * 100 + 7
    assert module.collectives() == {"all-reduce": 1}


def test_the_parts_of_a_collective_count_once():
    part = '= f32[8]{0} all-gather(%a), frontend_attributes={chain_id="CHAIN"}'
    chains = [part.replace("CHAIN", chain) for chain in "0010"]
    lines = [f"  %g.{i} {text}" for i, text in enumerate([*chains, "= f32[8]{0} all-gather(%a)"])]
    text = "\n".join(["HloModule m", "", "ENTRY %main (a: f32[8]) -> f32[8] {", *lines, "}"])
    assert Module(text).collectives() == {"all-gather": 3}


def test_kernels_and_bytes_of_a_gpu():
    """Of the gathered set, only the rows count."""
    number, moved = Module(GPU).kernels()
    assert number == 2
    assert moved == (4 * 128 + 4 * 128 + 4 * 4) + (2 * 4 * 128 + 4 * 4 * 128)


def test_a_program_that_was_really_compiled():
    def run(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x) @ x, None), x, length=7)[0]

    module = Module(jax.jit(run).lower(jnp.ones((8, 8))).compile().as_text())
    assert [turns for turns, _ in module.loops()] == [7]
    assert module.kernels()[1] > 7 * 8 * 8 * 4


def test_a_method_that_reads_a_file_is_lowered(monkeypatch):
    x, label = np.zeros((8, 2), np.float32), np.arange(8) % 2
    method = METHODS["s_model_conf"]._replace(host_input=lambda config: [[3, 1], [0, 4]])
    monkeypatch.setitem(METHODS, "s_model_conf", method)
    config = own_data.get_config()
    config.method, config.batch_size = "s_model_conf", 4
    data = make_data({"train": Part(x, label)}, config, 0)
    made = make_experiment(config, data, devices=jax.devices()[:1])
    assert "dot" in lower_dispatch(made, 1).as_text()


def compile_for(*arguments):
    script = ROOT / "scripts" / "benchmarks" / "compile.py"
    environment = {name: v for name, v in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_lenet_for_a_tpu(tmp_path):
    finished = compile_for(
        "--target=v5e", "--networks=lenet", "--steps=plain,jvp", f"--output={tmp_path}/lenet"
    )
    assert finished.returncode == 0, finished.stderr
    plain, jvp = json.loads((tmp_path / "lenet.json").read_text())
    assert plain["fits"] and jvp["fits"] and plain["collectives"] == {}
    assert 1.2 < jvp["cycles"] / plain["cycles"] < 2.5
    # The resident set is not copied: 50,000 images in rows of 896 bytes.
    assert jvp["temporary"] < 16e6 and jvp["arguments"] > 50_000 * 896
    assert (tmp_path / "lenet.md").read_text().startswith("Compiled for 1 x v5e, not run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--networks=alexnet"], "--networks: unknown name 'alexnet'"),
        (["--mesh=2"], "--mesh: 2; must be two numbers"),
        (["--chips=257"], "--chips: 257; at most 256"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    finished = compile_for("--target=v5e", *arguments)
    assert finished.returncode == 1 and message in finished.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_the_compiler_one_line_says_what_to_install():
    finished = compile_for("--target=v5e")
    assert finished.returncode == 1
    assert "pip install 'reweight-jax[aot-tpu]'" in finished.stderr.splitlines()[-1]
