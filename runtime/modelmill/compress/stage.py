"""The compress stage: makes one variant from the trained weights and leaves it in the job's workspace.

The log names every weight that was compressed and every one that stayed dense, with the reason; the result carries
the numbers. Running it again writes the same bytes again, but for a search by latency, which measures again.
"""

import logging
import tempfile
from pathlib import Path

from modelmill import storage, workspace
from modelmill.compress.apply import load_variant
from modelmill.compress.draft import Context
from modelmill.compress.encode import Compressed
from modelmill.compress.errors import CompressionError
from modelmill.compress.material import JobMaterial
from modelmill.compress.pipeline import compress
from modelmill.compress.plan import check
from modelmill.compress.weights import told, write_weights
from modelmill.contract.jobfile import JobFile, Variant
from modelmill.contract.result import StageResult, VariantResult
from modelmill.recipe.load import load_recipe

log = logging.getLogger(__name__)
NAMES_IN_RESULT = 20
WARNINGS_IN_RESULT = 2


def run(job: JobFile) -> StageResult:
    if len(job.variants) != 1:
        raise CompressionError(f"variants: the compress stage makes exactly one, the job file has {len(job.variants)}")
    variant = job.variants[0]
    if job.entrypoint is None:
        raise CompressionError("recipe: compression rebuilds the model and needs recipe.entrypoint; a script alone has none")
    check(variant.name, variant.steps)
    with tempfile.TemporaryDirectory() as folder:
        dense = fetch(workspace.dense_uri(job), Path(folder))
        recipe = load_recipe(job.recipe_path, job.entrypoint, job.hyperparameters)
        teacher = load_variant(recipe.model(), dense)
        context = Context(
            recipe=recipe, material=JobMaterial(recipe, job.data, seed=job.seed), teacher=teacher, seed=job.seed, say=log.info
        )
        made = compress(teacher, variant.steps, context)
        target = Path(folder) / f"{variant.name}.safetensors"
        size = write_weights(target, made.weights, structure=made.structure)
        storage.upload(target, workspace.variant_uri(job, variant.name))
        for end, data in made.reports.items():
            storage.write_bytes(workspace.report_uri(job, variant.name, end), data)
        return _result(variant, made, size=size, dense_size=dense.stat().st_size)


def fetch(uri: str, folder: Path) -> Path:
    """The file where it is, when it is on a volume; else a copy in `folder`."""
    local = storage.local_path(uri)
    if local is not None:
        storage.size(uri)  # says clearly when it is not there
        return local
    path = folder / uri.rsplit("/", 1)[-1]
    storage.download(uri, path)
    return path


def _result(variant: Variant, made: Compressed, *, size: int, dense_size: int) -> StageResult:
    for name in made.changed:
        log.info("%s: %s", name, told(made.weights[name]))
    for note in made.notes:
        log.info(note)
    for warning in made.warnings:
        log.warning(warning)
    for name, reason in made.kept.items():
        log.info("%s: stays dense, because %s", name, reason)
    ratio = size / max(1, dense_size)
    message = (
        f"{variant.name}: {size} bytes, {ratio:.3f} of dense; {len(made.changed)} weights compressed, "
        f"{len(made.kept)} kept dense; sparsity {made.sparsity:.3f}"
    )
    log.info(message)
    return StageResult(
        stage="compress",
        ok=True,
        message=message,
        variants=(VariantResult(name=variant.name, bytes=size),),
        details={
            "ratio": round(ratio, 4),
            "sparsity": round(made.sparsity, 4),
            "compressed": len(made.changed),
            "keptDense": len(made.kept),
            "compressedWeights": list(made.changed[:NAMES_IN_RESULT]),
            **({"warnings": list(made.warnings[:WARNINGS_IN_RESULT])} if made.warnings else {}),
        },
    )
