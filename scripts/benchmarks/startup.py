"""Times commands from their start to the record of their first step, without and with a cache.

    python scripts/benchmarks/startup.py [--rounds=3] [--json=FILE]

Each turn starts python -m reweight_jax.main twice, on random images: once with an empty cache of
compiled programs ("cold") and once with what the first wrote to it ("warm"). On an accelerator the
record of the first step is written after the second has been dispatched.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import programs as benchmark
from absl import flags

from reweight_jax import cli
from reweight_jax.errors import UserError
from reweight_jax.records.workdir import write_atomically

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of each command.", 1)
_JSON = flags.DEFINE_string("json", None, "File to write the numbers to.")

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = {
    "lenet": "configs/default.py",
    "resnet32": "configs/cifar_background_flip.py:cifar10",
}
NETWORKS = {"lenet": benchmark.network("lenet"), "resnet32": benchmark.network("resnet")}


def seconds_to_first_step(config: str, data: pathlib.Path, folder: pathlib.Path, cache) -> float:
    """Returns the seconds from the start of a command to its first record; then kills it."""
    command = [
        *(sys.executable, "-m", "reweight_jax.main", f"--config={config}", f"--workdir={folder}"),
        *("--config.data.name=npz", f"--config.data.path={data}", "--config.log_every_steps=1"),
        *("--config.data.num_hyper_val=100", "--config.data.noise=none"),
        "--config.data.noise_ratio=0",
    ]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "TQDM_DISABLE": "1"}
    records = folder / "metrics.jsonl"
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        ) as process,
    ):
        while not (records.exists() and records.stat().st_size):
            if process.poll() is not None:
                errors.seek(0)
                last = errors.read().strip().splitlines()[-1:]
                raise UserError(f"{' '.join(command)}: {''.join(last)}")
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def main():
    path = cli.output_file("--json", _JSON.value)
    result = {
        "device": jax.local_devices()[0].device_kind,
        "cores": benchmark.num_cores(),
        "jax": jax.__version__,
        "rounds": _ROUNDS.value,
        "networks": {},
    }
    for name, config in CONFIGS.items():
        times = {"cold": [], "warm": []}
        with tempfile.TemporaryDirectory() as temporary:
            root = pathlib.Path(temporary)
            benchmark.write_npz(NETWORKS[name], root / "random.npz")
            for turn in range(_ROUNDS.value):
                for kind, seconds in times.items():
                    folder, cache = root / f"{kind}{turn}", root / f"cache{turn}"
                    seconds.append(
                        seconds_to_first_step(config, root / "random.npz", folder, cache)
                    )
        medians = {kind: round(statistics.median(seconds), 1) for kind, seconds in times.items()}
        result["networks"][name] = medians
        print(f"{name}: first step after {medians['cold']} s cold, {medians['warm']} s warm")
    if path:
        write_atomically(path, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main)
