"""Which tests hold to the last bit only for programs that are compiled as users compile them."""

import os

import pytest

FUSED = "--xla_cpu_use_fusion_emitters=true"
_FLAGS = os.environ.get("XLA_FLAGS", "").split()

# conftest.py turns the emitters off: a network with convolutions is then rounded otherwise in each
# program. as_compiled_test.py runs these tests with them.
as_compiled = pytest.mark.skipif(
    "--xla_cpu_use_fusion_emitters=false" in _FLAGS and FUSED not in _FLAGS,
    reason="run by as_compiled_test.py",
)
