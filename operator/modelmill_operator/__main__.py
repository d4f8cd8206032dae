"""The operator's program: settings, logging, the planners of both kinds, and the engine that serves them."""

import asyncio
import sys

from modelmill_operator import logs, settings
from modelmill_operator.engine import app
from modelmill_operator.engine.kinds import MODEL_SERVICE, TRAINING_JOB
from modelmill_operator.serving.plan import plan as plan_service
from modelmill_operator.training.gang import answer
from modelmill_operator.training.plan import plan as plan_job


def main() -> None:
    chosen = settings.load(sys.argv[1:])
    logs.configure(level=chosen.log_level, as_json=chosen.log_json)
    planners = {TRAINING_JOB: plan_job, MODEL_SERVICE: plan_service}
    sys.exit(asyncio.run(app.run(chosen, planners=planners, answer=answer)))


if __name__ == "__main__":
    main()
