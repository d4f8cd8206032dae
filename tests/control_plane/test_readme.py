"""The README's resources are accepted by a real API server."""

import re
from pathlib import Path

from tests.cluster.controlplane import control_plane

ROOT = Path(__file__).parents[2]


def test_the_readmes_resources_are_valid() -> None:
    yaml = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    with control_plane() as plane:
        plane.kubectl("apply", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
        told = plane.kubectl("apply", "--dry-run=server", "-f", "-", given="---\n".join(yaml))
    assert "trainingjob.modelmill.io/xor created" in told
    assert "modelservice.modelmill.io/xor created" in told
