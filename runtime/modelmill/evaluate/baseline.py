"""The figures of a channel's current version, to compare new variants with.

They are taken from its manifest when it was evaluated on the very same held-out data (by digest). Otherwise the old
version is measured again on today's data, by its own code, in a process of its own.
"""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from modelmill.artifact import code, manifest
from modelmill.artifact.manifest import Manifest, Variant
from modelmill.artifact.open import OpenedVersion, open_version
from modelmill.artifact.registry import Registry
from modelmill.contract.jobfile import JobFile
from modelmill.evaluate.apart import Failed, measure_apart
from modelmill.evaluate.gates import Baseline, Measurement
from modelmill.evaluate.task import Task
from modelmill.failures import Fault
from modelmill.storage import NotFound

log = logging.getLogger(__name__)
DENSE = "dense"


class Baselines:
    """Finds each one once: variants without a counterpart are compared with the same dense one."""

    def __init__(self, job: JobFile, *, task: Task, test_digest: str | None) -> None:
        self._job = job
        self._task = task
        self._test_digest = test_digest
        self._registry = Registry(url=job.registry, namespace=job.namespace)
        self._found: dict[tuple[str, str], Baseline] = {}

    def find(self, channel: str, *, variant: str) -> Baseline | None:
        """What `variant` is compared with: its namesake, else dense, else the first; None while the channel is empty."""
        pointer = self._registry.channel(self._job.model, channel)
        if pointer is None:
            return None
        try:
            old = self._registry.read_manifest(self._job.model, pointer.version, digest=pointer.digest).manifest
        except Fault as fault:
            return Baseline(version=pointer.version, variant=variant, measurement=Measurement(failure=str(fault)))
        counterpart = old.variant(variant) or old.variant(DENSE) or next(iter(old.variants), None)
        if counterpart is None:
            return Baseline(version=old.version, variant=variant, measurement=Measurement(failure="it has no variant"))
        key = (pointer.digest, counterpart.name)
        if key not in self._found:
            measurement = self._recorded(old, counterpart) or self._measured(old, counterpart, digest=pointer.digest)
            self._found[key] = Baseline(version=old.version, variant=counterpart.name, measurement=measurement)
        return self._found[key]

    def _recorded(self, old: Manifest, variant: Variant) -> Measurement | None:
        same_data = self._test_digest is not None and old.lineage.data.get("test") == self._test_digest
        if not same_data or not set(self._task.metrics) <= variant.metrics.keys():
            return None
        log.info("version %s (%s): figures of its own evaluation, on the same held-out data", old.version, variant.name)
        return Measurement(metrics=variant.metrics)

    def _measured(self, old: Manifest, variant: Variant, *, digest: str) -> Measurement:
        log.info("version %s (%s): measured again, on today's held-out data", old.version, variant.name)
        with tempfile.TemporaryDirectory() as folder:
            try:
                opened = open_version(
                    self._job.registry,
                    namespace=self._job.namespace,
                    model=self._job.model,
                    version=old.version,
                    digest=digest,
                    variant=variant.name,
                    into=Path(folder),
                )
                found = measure_apart(_task(opened, self._task))
            except (Failed, Fault, NotFound) as error:
                return Measurement(failure=str(error))
        return Measurement(metrics=found.metrics, unmeasured=found.unmeasured)


def _task(opened: OpenedVersion, today: Task) -> Task:
    """The same measurement with the old version's code and weights."""
    parts = opened.manifest.code
    if parts.kind == manifest.PROGRAM:
        return replace(today, weights=str(opened.weights), program=str(opened.folder / parts.files[0]))
    return replace(
        today,
        weights=str(opened.weights),
        recipe=str(opened.folder / code.FOLDER) if parts.files else None,
        entrypoint=parts.entrypoint or "",
        hyperparameters=opened.manifest.hyperparameters,
        steps=opened.variant.steps,
    )
