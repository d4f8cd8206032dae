"""From a service file to a model that can run: fetch and check the version, rebuild the module, put the weights in.

torch is imported here and not earlier, so that the admin port answers within a fraction of a second of the start, and
after the fetch, so that a version that is not there is told at once.
What goes wrong says its cause (`modelmill.failures`): a digest that does not fit, a recipe that cannot be imported.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from modelmill.contract.servicefile import ServiceFile
from modelmill.serve import memory
from modelmill.serve.cpus import usable_cpus
from modelmill.serve.phases import Phases

if TYPE_CHECKING:
    from modelmill.serve.model import TorchModel
    from modelmill.serve.processing import ProcessedModel


def load(service: ServiceFile, *, phases: Phases, into: Path) -> "TorchModel | ProcessedModel":
    with phases.timed("fetch"):
        from modelmill.artifact.open import open_version

        opened = open_version(
            service.registry,
            namespace=service.namespace,
            model=service.model,
            version=service.version,
            digest=service.digest,
            variant=service.variant,
            into=into,
        )
    memory.keep()
    with phases.timed("import"), _no_garbage():
        import torch

        from modelmill.compress.apply import load_variant
        from modelmill.compress.device import counted, to_device
        from modelmill.serve.blank import blank_weights
        from modelmill.serve.model import TorchModel
    with phases.timed("load"):
        with blank_weights():
            module, recipe = opened.build()
        module = load_variant(module, opened.weights)
        # What is tried and measured from here on, is in this thread; all of the host's processors are not the pod's.
        torch.set_num_threads(usable_cpus())
        if torch.cuda.is_available():
            from modelmill.serve.gpu.place import on_gpu

            model: TorchModel = on_gpu(module, signature=opened.manifest.signature)
        else:
            ways = counted(to_device(module, torch.device("cpu")))
            model = TorchModel(module, signature=opened.manifest.signature, ways=ways)
    if model.device.type == "cpu":
        with phases.timed("optimize"):
            from modelmill.serve.compiled.candidate import best
            from modelmill.serve.optimize.apply import optimize
            from modelmill.serve.warmup import zeros

            example = tuple(model.tensors(zeros(model.signature, count=2)))
            served, shapes = best(opened, plain=module, served=optimize(module, example=example).module, example=example)
            model = TorchModel(served, signature=model.signature, shapes=shapes, ways=model.ways)
    clients = opened.manifest.service
    if clients is None or recipe is None:
        return model
    from modelmill.serve.processing import ProcessedModel

    return ProcessedModel(model, recipe, signature=clients)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """For imports: what they make stays. Looking for garbage in it takes a sixth of torch's import, and so it would later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
