"""Where a job keeps what its stages hand to each other, below the registry.

    <registry>/<namespace>/<model>/.jobs/<uid>/
        checkpoints/<step>/   dense.safetensors   training.json   evaluation.json   published.json
        variants/<name>.safetensors   variants/<name>.search.json   variants/<name>.search.png

The uid makes a job's workspace its own, also when a job of the same name existed before.
"""

from modelmill.contract.jobfile import JobFile
from modelmill.storage import join

JOBS = ".jobs"
REPORTS = ("search.json", "search.png")
"""Ends of the names of files beside a variant's weights: what a search has found, and its picture."""


def model_uri(job: JobFile) -> str:
    """Folder of the model's versions, channels and workspaces."""
    return join(job.registry, job.namespace, job.model)


def workspace(job: JobFile) -> str:
    return join(model_uri(job), JOBS, job.uid)


def checkpoints_uri(job: JobFile) -> str:
    return join(workspace(job), "checkpoints")


def checkpoint_uri(job: JobFile, step: int) -> str:
    return join(checkpoints_uri(job), str(step))


def dense_uri(job: JobFile) -> str:
    """The trained weights in float32."""
    return join(workspace(job), "dense.safetensors")


def training_uri(job: JobFile) -> str:
    """What training reports about itself: steps, losses."""
    return join(workspace(job), "training.json")


def variant_uri(job: JobFile, name: str) -> str:
    return join(workspace(job), "variants", f"{name}.safetensors")


def report_uri(job: JobFile, name: str, end: str) -> str:
    """What the compress stage leaves beside a variant; `end` is one of `REPORTS`."""
    return join(workspace(job), "variants", f"{name}.{end}")


def evaluation_uri(job: JobFile) -> str:
    """The evaluation in full: every variant's metrics and gates."""
    return join(workspace(job), "evaluation.json")


def published_uri(job: JobFile) -> str:
    """The version that this job has claimed, then published: a second run finds it."""
    return join(workspace(job), "published.json")
