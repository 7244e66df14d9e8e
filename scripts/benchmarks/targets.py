"""Accelerators that programs can be compiled for without having one."""

import functools
from typing import NamedTuple

from jax.experimental import topologies

from reweight_jax.errors import UserError, one_line

# An H100 SXM as its driver describes it; without a device nothing can be asked, or tuned by timing.
H100_SXM = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation"
  name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Target(NamedTuple):
    """An accelerator: its platform ("tpu", "cuda"), and the bytes of memory of one chip."""

    platform: str
    memory: int


TARGETS = {
    "v5e": Target("tpu", 16 << 30),
    "v6e": Target("tpu", 32 << 30),
    "h100": Target("cuda", 84_942_979_072),
}


def topology(target: str, chips: int) -> list:
    """Returns `chips` devices of a machine that is not there.

    Raises:
      UserError: their compiler is not installed, or there is no such number of them.
    """
    platform = TARGETS[target].platform
    if platform == "tpu":
        side = next((n for n in (2, 4, 8, 16) if n * n >= chips), None)
        if side is None:
            raise UserError(f"--chips: {chips}; at most 256")
        options = {"topology_name": f"{target}:{side}x{side}"}
    else:
        options = {"topology_name": "", "target_config": H100_SXM, "topology": f"1x1x{chips}"}
    try:
        describe = functools.partial(topologies.get_topology_desc, platform=platform)
        return list(describe(**options).devices)[:chips]
    except Exception as error:
        extra = {"tpu": "aot-tpu", "cuda": "aot-gpu"}[platform]
        raise UserError(
            f"--target: {target} cannot be compiled for; pip install 'reweight-jax[{extra}]' "
            f"({one_line(error)})"
        ) from error
