"""Builds the programs of the local cluster from Go modules, each once.

Every component has a folder under `tools/` with a go.mod and go.sum of its own; the version is what that go.mod
requires, so nothing is said twice. Results lie in the cache, outside the checkout, in a folder named by version and by
the digest of go.mod and go.sum: a changed pin is built anew, and two checkouts share what is equal. Each program is
moved into place when it is complete, so an interrupted build loses only the program it was at.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).parent / "tools"


def cache_root() -> Path:
    """The folder for all that outlives a checkout: programs, images and the running cluster's state."""
    named = os.environ.get("MODELMILL_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelmill"


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One Go module and the programs we take from it: program name -> package below the module."""

    name: str
    module: str
    programs: dict[str, str]
    version_flag: str = ""

    @property
    def source(self) -> Path:
        """The folder with this component's go.mod."""
        return TOOLS / self.name

    @property
    def version(self) -> str:
        """What go.mod requires of the module; our own program has no version."""
        found = re.search(rf"^\s*(?:require )?{re.escape(self.module)} (v\S+)", (self.source / "go.mod").read_text(), re.M)
        return found.group(1) if found else "v0"

    @property
    def target(self) -> Path:
        """Where the built programs lie."""
        digest = hashlib.sha256()
        for path in sorted(self.source.iterdir()):
            digest.update(path.read_bytes())
        return cache_root() / "bin" / f"{self.name}-{self.version}-{digest.hexdigest()[:10]}"

    def link_flags(self) -> str:
        """Linker flags: no debug tables, and the version where the program would not know it otherwise."""
        major, minor = [*self.version.lstrip("v").split("."), "0"][:2]
        values = self.version_flag.format(version=self.version, major=major, minor=minor).split()
        return " ".join(["-s", "-w", *(f"-X {value}" for value in values)])


_KUBERNETES = " ".join(
    f"k8s.io/{place}/version.{field}"
    for place, field in [
        ("component-base", "gitVersion={version}"),
        ("component-base", "gitMajor={major}"),
        ("component-base", "gitMinor={minor}"),
        ("client-go/pkg", "gitVersion={version}"),
    ]
)

COMPONENTS = [
    Component(name="etcd", module="go.etcd.io/etcd/server/v3", programs={"etcd": ""}),
    Component(
        name="kubernetes",
        module="k8s.io/kubernetes",
        programs={
            name: f"/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kubectl",
                "kubelet",
                "kube-scheduler",
                "kube-proxy",
            )
        },
        version_flag=_KUBERNETES,
    ),
    Component(name="versitygw", module="github.com/versity/versitygw", programs={"versitygw": "/cmd/versitygw"}),
    Component(
        name="containerd",
        module="github.com/containerd/containerd/v2",
        programs={name: f"/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        version_flag="github.com/containerd/containerd/v2/version.Version={version}",
    ),
    Component(name="pause", module="modelmill.local/tools/pause", programs={"pause": ""}),
    Component(name="coredns", module="github.com/coredns/coredns", programs={"coredns": ""}),
    Component(
        name="helm",
        module="helm.sh/helm/v4",
        programs={"helm": "/cmd/helm"},
        version_flag="helm.sh/helm/v4/internal/version.version={version}",
    ),
]
_HOME = {program: component for component in COMPONENTS for program in component.programs}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
EVERYTHING = tuple(_HOME)
CLUSTER = tuple(name for name in EVERYTHING if name not in {"helm", "versitygw"})


def program(name: str) -> Path:
    """The built program; builds it when it is missing."""
    path = _HOME[name].target / name
    if not path.exists():
        build([name])
    return path


def search_path(names: Iterable[str] = EVERYTHING) -> str:
    """A PATH with our programs before the machine's own."""
    folders = dict.fromkeys(str(_HOME[name].target) for name in names)
    return os.pathsep.join([*folders, os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")])


def build(names: Iterable[str] = EVERYTHING) -> None:
    """Builds the named programs that are not there yet, one at a time, with a line for each."""
    missing = [name for name in names if not (_HOME[name].target / name).exists()]
    if not missing:
        return
    if shutil.which("go") is None:
        raise SystemExit("go is not on PATH: install Go 1.26 or newer to build the local cluster's programs")
    with _only_builder(), _fetched_ahead(missing):
        for name in missing:
            if not (_HOME[name].target / name).exists():  # another builder may have made it while we waited
                _build_one(_HOME[name], name)


@contextmanager
def _fetched_ahead(names: Iterable[str]) -> Iterator[None]:
    """While one program is compiled, which takes the processors, the others' modules come over the network."""
    components = {component.name: component for component in map(_HOME.__getitem__, names)}
    packages = ((one, [one.module + path for path in one.programs.values()]) for one in components.values())
    commands = [
        subprocess.Popen(
            ["go", "list", "-deps", *paths],
            cwd=one.source,
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for one, paths in packages
    ]
    try:
        yield
    finally:
        # A build that failed does not wait for them. What they could not fetch, the build says.
        for command in commands:
            command.terminate()
            command.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}


def _build_one(component: Component, name: str) -> None:
    component.target.mkdir(parents=True, exist_ok=True)
    installed = _installed(component, name)
    if installed is not None:
        (component.target / name).symlink_to(installed)
        return
    print(f"build {name} {component.version} ...", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=component.target, prefix=".build-") as folder:
        made = Path(folder) / name
        command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", component.link_flags(), "-o", str(made)]
        package = component.module + component.programs[name]
        ended = subprocess.run([*command, package], cwd=component.source, env=_environment(), check=False)
        if ended.returncode != 0:
            raise SystemExit(f"building {name} failed: see the lines above; the module is {component.source}/go.mod")
        made.replace(component.target / name)
    print(f"build {name} {component.version}: {time.monotonic() - started:.0f} s", flush=True)


def _installed(component: Component, name: str) -> str | None:
    """A program of exactly our version that the machine has already."""
    if component.name not in {"etcd", "kubernetes"}:
        return None
    places = os.pathsep.join([os.environ.get("KUBEBUILDER_ASSETS", ""), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found is None:
        return None
    question = ["version", "--client"] if name == "kubectl" else ["--version"]
    answer = subprocess.run([found, *question], capture_output=True, text=True, check=False).stdout
    return found if component.version.lstrip("v") in answer.replace("v", " ").split() else None


@contextmanager
def _only_builder() -> Iterator[None]:
    """Two sessions that build at once would each pay in full: the second waits and finds it done."""
    lock = cache_root() / "bin" / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
