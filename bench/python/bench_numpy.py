"""The tools of the bench in a process that has numpy, as most workers have."""

from __future__ import annotations

import bench_tools
import numpy  # noqa: F401


class NumpyTools(bench_tools.BenchTools):
    pass
