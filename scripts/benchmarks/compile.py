"""Compiles runs for accelerators that are not there: do they fit, and what would a step cost?

    python scripts/benchmarks/compile.py --target=v5e --networks=lenet,resnet32
    python scripts/benchmarks/compile.py --target=v5e --chips=4 --steps=plain,jvp
    python scripts/benchmarks/compile.py --target=h100 --networks=resnet32
    python scripts/benchmarks/compile.py --target=v6e --config=mine/config.py --memory=8

Nothing is run, and no accelerator is needed. The compilers are extras: `pip install
'reweight-jax[aot-tpu]'` and `[aot-gpu]`. It compiles what a run executes, a dispatch: a loop of
--dispatch steps over --num_train resident examples, whose batches are augmented. "plain" is the
baseline's step. --config compiles your own config instead, on its data, model, type and batches.

Cycles are the TPU compiler's own estimates for one chip; they do not count waiting for other chips.
Kernels and the bytes of their operands and results are counted in the GPU's program, which is
compiled without autotuning.
"""

import functools
import json
import math
import os
import sys
import time
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"

import jax
import numpy as np
import programs as benchmark
from absl import flags
from hlo import Module
from lowering import lower_dispatch, lower_on_mesh
from targets import TARGETS, topology

from reweight_jax import cli
from reweight_jax.errors import UserError, choose, one_line
from reweight_jax.records.workdir import write_atomically
from reweight_jax.train.config import load_experiment

_TARGET = flags.DEFINE_enum("target", "v5e", [*TARGETS], "What to compile for.")
_CHIPS = flags.DEFINE_integer("chips", 1, "How many of them; batches are split over them.", 1)
_NETWORKS = flags.DEFINE_list(
    "networks", ["lenet", "resnet32"], "lenet, resnet8, resnet32, wrn, transformer."
)
_STEPS = flags.DEFINE_list("steps", [*benchmark.STEPS], "Which steps.")
_MESH = flags.DEFINE_list(
    "mesh", [], "DATA,MODEL: one step under jax.jit, the parameters spread over all chips."
)
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Of the computation.")
_BATCH = flags.DEFINE_integer("batch", 100, "Training batch, over all chips.", 1)
_CONFIG = cli.define_config("Your own FILE.py:VARIANT, in place of --networks and --steps.")
_DISPATCH = flags.DEFINE_integer("dispatch", 25, "Steps of a dispatch.", 2)
_NUM_TRAIN = flags.DEFINE_integer("num_train", 50_000, "Resident training examples.", 1)
_MEMORY = flags.DEFINE_float("memory", None, "GiB of a chip. Default: what the target has.", 0)
_OUTPUT = flags.DEFINE_string("output", None, "Without an ending: writes .json and .md.")
_HLO = flags.DEFINE_string("hlo", None, "Folder for the text of the optimised programs.")

# column -> a fact, and the unit that it is divided by; ratios to plain follow.
COLUMNS = {
    "compile s": ("compile_seconds", 1),
    "M cycles a step": ("cycles", 1e6),
    "M cycles besides": ("cycles_besides", 1e6),
    "GFLOP a step": ("flops", 1e9),
    "MB moved a step": ("bytes", 1e6),
    "kernels a step": ("kernels", 1),
    "temporary MB": ("temporary", 1e6),
    "arguments MB": ("arguments", 1e6),
}
RATIOS = {"cycles": "x cycles", "flops": "x FLOP", "bytes": "x bytes"}


def steps_of(name: str) -> list[str]:
    """Returns those of --steps that the network `name` can take."""
    possible = benchmark.steps_of(benchmark.named(name, _DTYPE.value))
    return [step for step in _STEPS.value if step in possible]


def experiments(devices) -> dict[tuple[str, str], Any]:
    """Returns (name, step) -> function that makes the experiment on `devices`."""
    if _CONFIG.value:
        config = _CONFIG.value
        names = "-".join(filter(None, (config.name, config.variant)))
        return {(names, config.method): lambda: load_experiment(config, devices)}
    made = {}
    for name in _NETWORKS.value:
        network = benchmark.named(name, _DTYPE.value, _BATCH.value)
        for step in steps_of(name):
            make = functools.partial(
                benchmark.create_experiment, network, step, devices, _NUM_TRAIN.value
            )
            made[name, step] = make
    return made


def facts_of(compiled, module: Module, num_steps: int) -> dict[str, Any]:
    """Returns what the compiler says of a dispatch of `num_steps` steps."""
    memory = compiled.memory_analysis()
    facts = {
        "temporary": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "collectives": module.collectives(),
    }
    body = next((body for turns, body in module.loops() if turns == num_steps > 1), None)
    share = 1 if body else num_steps  # without a loop the compiler has unrolled it
    if TARGETS[_TARGET.value].platform == "tpu":
        facts["cycles"] = module.cycles(body) / share
        facts["cycles_besides"] = module.cycles() - num_steps * facts["cycles"]
        facts["flops"] = compiled.cost_analysis()["flops"] / share  # it counts a loop's body once
    else:
        number, moved = module.kernels(body)
        facts["kernels"], facts["bytes"] = number / share, moved / share
    return facts


def main():
    cli.check_config(_CONFIG.value or benchmark.default.get_config())
    output = cli.output_file("--output", _OUTPUT.value and f"{_OUTPUT.value}.json")
    shape = tuple(int(n) if n.isdecimal() else 0 for n in _MESH.value)
    if _MESH.value and (len(shape) != 2 or 0 in shape):
        raise UserError(f"--mesh: {','.join(_MESH.value)}; must be two numbers, such as 2,2")
    for flag, table in ((_NETWORKS, benchmark.NETWORKS), (_STEPS, benchmark.STEPS)):
        for name in flag.value:
            choose(f"--{flag.name}", name, table)
    if not _CONFIG.value and not any(map(steps_of, _NETWORKS.value)):
        raise UserError("--steps: layerwise is not for networks with BatchNorm")
    devices = topology(_TARGET.value, math.prod(shape) if shape else _CHIPS.value)
    mesh = jax.sharding.Mesh(np.reshape(devices, shape), ("data", "model")) if shape else None
    memory = (_MEMORY.value or 0) * 2**30 or TARGETS[_TARGET.value].memory
    rows = []
    for (name, step), make in experiments(devices[:1] if shape else devices).items():
        row = {"target": _TARGET.value, "chips": len(devices), "mesh": shape or None}
        experiment = make()
        num_steps = 1 if shape else _DISPATCH.value
        row |= {"network": name, "step": step, "dtype": experiment.config.model.dtype}
        start = time.perf_counter()
        try:
            if shape:
                compiled = lower_on_mesh(experiment, mesh).compile()
            else:
                compiled = lower_dispatch(experiment, num_steps).compile()
        except jax.errors.JaxRuntimeError as error:
            row["error"] = one_line(error)
        else:
            row["compile_seconds"] = time.perf_counter() - start
            text = compiled.as_text()
            row |= facts_of(compiled, Module(text), num_steps)
            row["fits"] = row["temporary"] + row["arguments"] <= memory
            if _HLO.value:
                path = cli.make_folder("--hlo", _HLO.value) / f"{name}_{step}_{row['dtype']}.txt"
                write_atomically(path, text)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    table = table_of(rows, memory)
    print(table)
    if output:
        write_atomically(output, json.dumps(rows, indent=1) + "\n")
        write_atomically(output.with_suffix(".md"), table + "\n")


def table_of(rows, memory) -> str:
    """Returns the table in Markdown."""
    plain = {row["network"]: row for row in rows if row["step"] in ("plain", "baseline")}
    used = {c: f for c, f in COLUMNS.items() if any(f[0] in row for row in rows)}
    ratios = {f: text for f, text in RATIOS.items() if any(f in row for row in rows)}
    header = ["network", "step", "compiles", *used, *ratios.values(), "collectives"]
    header.append(f"fits {memory / 2**30:.0f} GiB")
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    for row in rows:
        cells = [row["network"], row["step"], row.get("error", "yes")]
        cells += [_number(row[f] / unit) if f in row else "" for f, unit in used.values()]
        base = plain.get(row["network"], {})
        cells += [f"{row[f] / base[f]:.2f}" if f in row and base.get(f) else "" for f in ratios]
        kinds = row.get("collectives", {})
        cells.append(", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none")
        cells.append({True: "yes", False: "no", None: ""}[row.get("fits")])
        lines.append(" | ".join(cells))
    mesh = rows[0]["mesh"]
    chips = f"{rows[0]['chips']} x {rows[0]['target']}"
    chips += f", a mesh of {mesh[0]} x {mesh[1]}" if mesh else ""
    title = f"Compiled for {chips}, not run: jax {jax.__version__}, {rows[0]['dtype']}"
    return "\n".join([title, "", *(f"| {line} |" for line in lines)])


def _number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    cli.run(main)
