"""What a user's own script does for one answer: import torch, load the same file, run once.

python -m benchmarks.serving.first_answer WEIGHTS WORKLOAD
"""

import sys

import torch
from safetensors.torch import load_file

from benchmarks.serving import workloads
from benchmarks.serving.models import MODULES


def main() -> None:
    weights, name = sys.argv[1:]
    module = MODULES[name]()
    module.load_state_dict(load_file(weights), assign=True)
    row = next(iter(workloads.find(name).all_rows()))
    with torch.inference_mode():
        answer = module.eval()(*(torch.from_numpy(array) for array in row.values()))
    print(answer.shape, flush=True)


if __name__ == "__main__":
    main()
