"""Our side: a variant's file put into the module by our loader, then made faster for serving as the server does it.

MODE is the path of the variant's file; what the limits need to know of it is told beside speed and score.
"""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.compression.models import multiplications
from benchmarks.compression.side import Make, serve
from benchmarks.compression.workloads import Workload
from modelmill.compress import apply, container
from modelmill.serve.optimize.apply import optimize


def load_variant(path: Path, workload: Workload) -> nn.Module:
    """The file's module, ready to be called: the only place that knows how ours is loaded and optimised."""
    made = optimize(loaded(path, workload), example=workload.timed(2))
    print("; ".join(made.notes), file=sys.stderr)
    return made.module


def loaded(path: Path, workload: Workload) -> nn.Module:
    return apply.load_variant(workload.module(), path)


def prepared(workload: Workload, *, path: Path) -> Make:
    module = load_variant(path, workload)
    return lambda inputs: module


def facts(workload: Workload, path: Path) -> Mapping[str, Any]:
    """Bytes of the file and of the dense one; multiplications for a row; bytes of the linear layers beside float32."""
    dense = workload.module()
    tensors, _ = container.read(path)
    linears = [f"{name}.weight" for name, layer in dense.named_modules() if type(layer) is nn.Linear]
    stored = sum(tensor.nbytes for name, tensor in tensors.items() if any(_belongs(name, linear) for linear in linears))
    return {
        "file_bytes": path.stat().st_size,
        "dense_bytes": sum(tensor.nbytes for tensor in dense.state_dict().values()),
        "linear_bytes": stored,
        "dense_linear_bytes": sum(dense.get_parameter(name).nbytes for name in linears),
        "macs": multiplications(loaded(path, workload), workload.timed(1)),
        "dense_macs": multiplications(dense, workload.timed(1)),
    }


def _belongs(stored: str, weight: str) -> bool:
    """Whether a tensor of the file is this weight, or its scales, levels and the like (`<weight>_scale`)."""
    return stored == weight or stored.startswith(f"{weight}_")


if __name__ == "__main__":
    task, file = Workload(sys.argv[1]), Path(sys.argv[2])
    serve(functools.partial(prepared, path=file), workload=task.name, facts=lambda: facts(task, file))
