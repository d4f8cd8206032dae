"""`python -m modelmill.stage`: one stage of a TrainingJob or ModelService, from the job file to the stage's result.

Every stage is a module with `run(job) -> StageResult`, imported only when its pod needs it. Whatever happens, a result
is left as the termination message; the exit code says whether trying again can help.
"""

import importlib
import logging
import os
import sys
import traceback

from modelmill import failures
from modelmill.contract import codec, names, result
from modelmill.contract.jobfile import JobFile
from modelmill.contract.result import StageResult

STAGES = {
    "prepare": "modelmill.train.prepare",
    "compress": "modelmill.compress.stage",
    "evaluate": "modelmill.evaluate.stage",
    "publish": "modelmill.artifact.publish",
    "resolve": "modelmill.artifact.resolve",
}
EXIT_FAILED = 1


def perform(text: str) -> StageResult:
    """The result of the stage that the job file asks for; an exception becomes one too."""
    stage = "unknown"
    try:
        job = codec.loads(JobFile, text)
        stage = job.stage
        if stage not in STAGES:
            raise codec.ContractError(f"stage: {stage!r} is not one of {', '.join(STAGES)}")
        outcome: StageResult = importlib.import_module(STAGES[stage]).run(job)
        return outcome
    except Exception as error:
        traceback.print_exc()
        failure = failures.describe(error)
        # A job file that cannot be read will read no better next time.
        fatal = failure.fatal or isinstance(error, codec.ContractError)
        return StageResult(stage=stage, ok=False, reason=failure.reason, message=failure.message, fatal=fatal)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    outcome = perform(os.environ.get(names.ENV_JOB, ""))
    if outcome.message:
        print(outcome.message, flush=True)
    result.write(outcome, path=names.PATH_TERMINATION)
    if outcome.ok:
        return names.EXIT_OK
    return names.EXIT_FATAL if outcome.fatal else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
