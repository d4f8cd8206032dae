"""A few seconds of the fuzzer, in a process of its own: it instruments what it imports."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz import seeds

SECONDS = 8


def test_made_up_weights_files_are_read_or_refused(tmp_path: Path) -> None:
    count = seeds.write(tmp_path / "seeds")
    (tmp_path / "corpus").mkdir()
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.fuzz_weights", str(tmp_path / "corpus"), str(tmp_path / "seeds")),
            *(f"-max_total_time={SECONDS}", "-max_len=65536", "-seed=1", f"-artifact_prefix={tmp_path}/", "-print_final_stats=1"),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    executed = re.search(r"number_of_executed_units: (\d+)", ran.stderr)
    assert executed is not None and int(executed[1]) > 10 * count, "it must have got beyond the seeds"
