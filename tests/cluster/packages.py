"""The programs that come from Debian rather than from Go modules: installed when missing, or named.

Looked for by what they bring, not by package name, so a machine that has them from elsewhere is left alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_BRINGS = {
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "nftables": "nft",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "docker-registry": "docker-registry",
    "busybox-static": "busybox",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "prometheus": "prometheus",
    "wrk": "wrk",
    "openssl": "openssl",
}


def missing() -> list[str]:
    """The Debian packages whose programs are not there."""
    return [
        package
        for package, brings in _BRINGS.items()
        if not (Path(brings).exists() if brings.startswith("/") else shutil.which(brings))
    ]


def install() -> None:
    """Installs what is missing where apt-get may do so; else says what to install."""
    wanted = missing()
    if not wanted:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"missing programs: install these (Debian's names), then call again: {' '.join(wanted)}")
    print(f"apt-get install {' '.join(wanted)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *wanted]):
        subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=True)
