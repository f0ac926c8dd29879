"""What hardware decides, checked by one command: `bash tests/gpu.sh`. Needs torch, and timm for two networks."""

import sys
import types
from pathlib import Path

# Of the benchmarks only files that need torch alone are imported; their package asks for all that its commands need.
if "benchmarks" not in sys.modules:
    _package = types.ModuleType("benchmarks")
    _package.__path__ = [str(Path(__file__).parents[2] / "benchmarks")]
    sys.modules["benchmarks"] = _package
