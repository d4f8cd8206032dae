"""torchao's PT2E quantization for x86, lowered by inductor to oneDNN's int8 operators: static or dynamic activations.

`7bit` keeps activations to 7 bits, which its documentation asks for on a CPU without VNNI: 8 bits may saturate there.
"""

import functools
import sys

import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from benchmarks.compression.side import Make, serve
from benchmarks.compression.workloads import Call, Inputs, Workload

MODES = {
    "static": {"is_dynamic": False, "reduce_range": False},
    "static-7bit": {"is_dynamic": False, "reduce_range": True},
    "dynamic": {"is_dynamic": True, "reduce_range": False},
    "dynamic-7bit": {"is_dynamic": True, "reduce_range": True},
}


def quantized(workload: Workload, *, mode: str) -> Make:
    def make(inputs: Inputs) -> Call:
        with torch.no_grad():
            exported = torch.export.export(workload.baseline(), inputs, strict=True).module()
            quantizer = X86InductorQuantizer()
            quantizer.set_global(get_default_x86_inductor_quantization_config(**MODES[mode]))
            prepared = prepare_pt2e(exported, quantizer)
            for batch in workload.calibration(len(inputs[0])):
                prepared(*batch)
            converted = convert_pt2e(prepared)
        compiled: Call = torch.compile(converted, dynamic=False)
        return compiled

    return make


if __name__ == "__main__":
    serve(functools.partial(quantized, mode=sys.argv[2]), workload=sys.argv[1])
