"""What a rank tells its launcher and the log while it trains."""

import os
import time
from dataclasses import replace
from pathlib import Path

from modelmill.contract import codec, names
from modelmill.contract.report import Progress

WRITE_SECONDS = 0.5
LOG_SECONDS = 5.0
_SMOOTHING = 0.1


class ProgressWriter:
    """Keeps the progress file fresh; its change is also the proof that the rank is alive."""

    def __init__(self, *, total_steps: int, batch_size: int, talks: bool) -> None:
        self._total, self._batch, self._talks = total_steps, batch_size, talks
        path = os.environ.get(names.ENV_PROGRESS_FILE)
        self._path = Path(path) if path else None
        self._written = self._logged = -LOG_SECONDS
        self._last_step: float | None = None
        self._step_seconds: float | None = None
        self._checkpoint_step: int | None = None
        self._newest: Progress | None = None

    def step(self, step: int, *, epoch: int, loss: float | None) -> None:
        """After each step; `step` counts from 1."""
        now = time.monotonic()
        if self._last_step is not None:
            took = now - self._last_step
            known = self._step_seconds
            self._step_seconds = took if known is None else known + _SMOOTHING * (took - known)
        self._last_step = now
        self._newest = self._progress(step, epoch, loss)
        if now - self._written >= WRITE_SECONDS or step == self._total:
            self._write(self._newest)
        if self._talks and (now - self._logged >= LOG_SECONDS or step == self._total):
            self._logged = now
            print(_sentence(self._newest), flush=True)

    def saved(self, step: int) -> None:
        """After each checkpoint, and for the one that the run resumed from."""
        self._checkpoint_step = step
        self._write(replace(self._newest or Progress(step=step, total_steps=self._total), checkpoint_step=step))

    def _progress(self, step: int, epoch: int, loss: float | None) -> Progress:
        seconds = self._step_seconds
        return Progress(
            step=step,
            total_steps=self._total,
            epoch=epoch,
            loss=loss,
            samples_per_second=round(self._batch / seconds, 1) if seconds else None,
            eta_seconds=round((self._total - step) * seconds, 1) if seconds else None,
            checkpoint_step=self._checkpoint_step,
        )

    def _write(self, progress: Progress) -> None:
        self._written = time.monotonic()
        if self._path is not None:
            beside = self._path.with_suffix(".new")
            beside.write_text(codec.dumps(progress))
            beside.rename(self._path)


def _sentence(progress: Progress) -> str:
    words = [f"step {progress.step}/{progress.total_steps}", f"epoch {progress.epoch}"]
    words += [f"loss {progress.loss:.4f}"] if progress.loss is not None else []
    words += [f"{progress.samples_per_second:.0f} samples/s"] if progress.samples_per_second is not None else []
    words += [f"{progress.eta_seconds:.0f} s left"] if progress.eta_seconds is not None else []
    return ", ".join(words)
