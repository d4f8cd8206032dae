"""A training pod without Kubernetes: `python -m tests.unit.train.pod FOLDER INDEX` runs the launcher on this machine.

The job file is in the environment as in a pod. As a child subreaper the process inherits orphans like a PID 1.
"""

import ctypes
import os
import sys
from pathlib import Path

from modelmill.contract import codec, names
from modelmill.contract.jobfile import JobFile
from modelmill.train.launcher import Launcher, Surroundings

PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    folder, index = Path(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    pod = Surroundings(
        index=index,
        attempt=0,
        address="127.0.0.1",
        token_file=folder / "token",
        termination_file=folder / f"result-{index}.json",
        scratch=folder / f"scratch-{index}",
    )
    return Launcher(codec.loads(JobFile, os.environ[names.ENV_JOB]), pod).run()


if __name__ == "__main__":
    sys.exit(main())
