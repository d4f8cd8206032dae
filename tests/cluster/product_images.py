"""The product's images, from the checkout to where the cluster's nodes pull them: `python -m tests.cluster.product_images`.

An image's tag is a digest of all that it is made of, so nothing is built or pushed twice, and a changed line of code
moves a layer of some hundred kilobytes. The base is BASE or python:3.11-slim; where no registry can be reached, a small
Debian made from the machine's own package sources. References go to build/images.json for the demo and the tests.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import build, config, foreign, registry
from tests.cluster.builder import Builder, find_builder
from tests.cluster.node import ctr
from tests.cluster.process import ClusterError, http_status, step

CHECKOUT = Path(__file__).parents[2]
RECORD = CHECKOUT / "build" / "images.json"
_DEFAULT_BASE = "docker.io/library/python:3.11-slim"  # 3.11: the lock files are resolved for it
_PACKAGES = "python3,python3-venv,ca-certificates"
_COMPILER = f"{_PACKAGES},g++,python3-dev"
_LOCAL = "localhost/modelmill"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """What one image is made of, as paths in the checkout."""

    name: str
    file: str
    dependencies: tuple[str, ...]
    code: tuple[str, ...]


IMAGES = (
    Image(
        name="operator",
        file="operator/Containerfile",
        dependencies=("lock/operator.txt",),
        code=("operator/modelmill_operator", "runtime/modelmill/__init__.py", "runtime/modelmill/contract"),
    ),
    Image(
        name="runtime",
        file="runtime/Containerfile",
        dependencies=("lock/runtime.txt", "runtime/slim.py", "runtime/elf.py"),
        code=("runtime/modelmill", "runtime/native"),
    ),
)


def references() -> dict[str, str]:
    """The images that were pushed last from this checkout: name -> reference for a pod."""
    if not RECORD.exists():
        raise ClusterError(f"{RECORD} is not there: run `make images` with the cluster up")
    found: dict[str, str] = json.loads(RECORD.read_text())
    return found


def make(*, base: str, flavor: str, torch_index: str) -> dict[str, str]:
    """Builds what is missing; returns name -> reference in the builder's store."""
    builder = find_builder()
    chosen = base or _base(builder)
    compiler = _debian(builder, _COMPILER) if chosen == _debian_reference(_PACKAGES) else chosen
    made = {}
    for image in IMAGES:
        arguments = {"BASE": chosen}
        if image.name == "runtime":
            arguments |= {"FLAVOR": flavor, "TORCH_INDEX": torch_index, "COMPILER": compiler}
        made[image.name] = _make(image, builder, arguments)
    _prune(builder)
    return made


def _make(image: Image, builder: Builder, arguments: dict[str, str]) -> str:
    context = _context(image)  # first: what is digested must be what is built, also while somebody edits
    below = _digest(context, [image.file, *image.dependencies], json.dumps(arguments))
    whole = _digest(context, image.code, below)
    # Tagged on its own: as long as the tag stands, the cache keeps the layers that took minutes.
    dependencies, reference = f"{_LOCAL}/{image.name}-dependencies:{below}", f"{_LOCAL}/{image.name}:{whole}"
    if builder.exists(reference):
        print(f"image {image.name}:{whole} is up to date")
        return reference
    if not builder.exists(dependencies):
        with step(f"{image.name}: dependencies ({builder.name})"):
            builder.build(dependencies, context=context, file=image.file, arguments=arguments, target="dependencies")
    with step(f"{image.name}: code"):
        builder.build(reference, context=context, file=image.file, arguments=arguments)
    return reference


def deliver(made: dict[str, str], *, required: bool) -> None:
    """Brings the images to where the cluster finds them; without a cluster it says so, or fails when `required`."""
    users = os.environ.get("MODELMILL_REGISTRY", "")
    kind = foreign.kind_of_cluster()
    if users:
        placed = {name: _pushed(reference, users, local=False) for name, reference in made.items()}
    elif kind == "kind":
        for reference in made.values():
            with step(f"load {reference} into kind"):
                subprocess.run(["kind", "load", "docker-image", reference, "--name", "modelmill"], check=True)
        placed = made
    elif kind == "built-in" and _answers(config.registry_port()):
        place = f"localhost:{config.registry_port()}/modelmill"
        placed = {name: _pushed(reference, place, local=True) for name, reference in made.items()}
        for reference in placed.values():
            _pull_on_node(reference)
            _forget_old(reference)
    else:
        reason = "set MODELMILL_REGISTRY to a registry that it pulls from" if kind == "context" else "run `make cluster` first"
        if required:
            raise ClusterError(f"the images are built, but the cluster cannot get them: {reason}")
        print(f"built, not pushed: for a cluster, {reason}")
        return
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(placed, indent=2) + "\n")
    print(f"{RECORD.relative_to(CHECKOUT)}: {', '.join(placed.values())}")


def _pushed(reference: str, place: str, *, local: bool) -> str:
    destination = f"{place}/{reference.removeprefix(_LOCAL + '/')}"
    with step(f"push {destination}"):
        find_builder().push(reference, destination, local=local)
    return destination


def _pull_on_node(reference: str) -> None:
    """The first pod would wait for this otherwise."""
    if reference not in _ctr("images", "list", "--quiet").split():
        with step(f"pull {reference} on the node"):
            _ctr("images", "pull", "--plain-http", reference)


def _forget_old(reference: str) -> None:
    """What the builder has no more, the registry and the node need no more."""
    repository = reference.rpartition(":")[0]
    name = repository.rpartition("/")[2]
    kept = {tag.rpartition(":")[2] for tag in find_builder().tags(f"{_LOCAL}/{name}")}
    registry.forget(f"modelmill/{name}", all_but=kept)
    known = _ctr("images", "list", "--quiet").split()
    old = [found for found in known if found.rpartition(":")[0] == repository and found.rpartition(":")[2] not in kept]
    if old:
        _ctr("images", "remove", *old)


def _ctr(*arguments: str) -> str:
    ended = subprocess.run(ctr(*arguments), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise ClusterError(f"ctr {' '.join(arguments)} failed: {ended.stderr.strip()}")
    return ended.stdout


def _base(builder: Builder) -> str:
    """The usual base where it can be pulled; else a Debian of our own."""
    made = _debian_reference(_PACKAGES)
    if builder.exists(made):
        return made
    if builder.exists(_DEFAULT_BASE) or builder.pull(_DEFAULT_BASE):
        return _DEFAULT_BASE
    print(f"{_DEFAULT_BASE} cannot be pulled: the base is made from Debian's packages")
    if shutil.which("mmdebstrap") is None:
        raise ClusterError(f"{_DEFAULT_BASE} cannot be pulled: give BASE=<an image with Python 3.11>, or install mmdebstrap")
    return _debian(builder, _PACKAGES)


def _debian_reference(packages: str) -> str:
    return f"{_LOCAL}/base:{hashlib.sha256(packages.encode()).hexdigest()[:12]}"


def _debian(builder: Builder, packages: str) -> str:
    """Made once for each list of packages."""
    made = _debian_reference(packages)
    if builder.exists(made):
        return made
    context = _workplace("base")
    with step(f"base from Debian's packages ({packages})"):
        command = ["mmdebstrap", "--variant=minbase", f"--include={packages}"]
        for left_out in ("doc", "man", "locale", "info"):
            command.append(f"--dpkgopt=path-exclude=/usr/share/{left_out}/*")
        ended = subprocess.run([*command, "bookworm", str(context / "base.tar")], capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise ClusterError(f"mmdebstrap failed:\n{ended.stderr[-2000:]}")
        (context / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
        builder.build(made, context=context, file="Containerfile", arguments={})
        shutil.rmtree(context)
    return made


def _context(image: Image) -> Path:
    """A copy of the image's sources alone: same bytes, modes and times in every checkout, or no cache would ever match."""
    context = _workplace(image.name)
    for path in _files(CHECKOUT, [image.file, *image.dependencies, *image.code]):
        target = context / path.relative_to(CHECKOUT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        target.chmod(0o644)
    for path in (context, *context.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (0, 0))
    return context


def _workplace(name: str) -> Path:
    place = build.cache_root() / "images" / f"context-{name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def _files(root: Path, paths: Iterable[str]) -> Iterator[Path]:
    for name in paths:
        path = root / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _digest(root: Path, paths: Iterable[str], more: str) -> str:
    digest = hashlib.sha256(more.encode())
    for path in _files(root, paths):
        digest.update(f"\0{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _prune(builder: Builder) -> None:
    """Keeps the newest few: other checkouts share the store."""
    for image in IMAGES:
        for repository, kept in ((image.name, 8), (f"{image.name}-dependencies", 2)):
            for reference in builder.tags(f"{_LOCAL}/{repository}")[kept:]:
                builder.remove(reference)


def _answers(port: int) -> bool:
    return http_status(port, "/v2/") == 200


@contextmanager
def _only_one() -> Iterator[None]:
    """Two builds at once would each pay in full."""
    lock = build.cache_root() / "images" / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.product_images", description=__doc__)
    parser.add_argument("--base", default="", help="the image that both are built on: Python 3.11 with venv")
    parser.add_argument("--flavor", default="cpu", choices=("cpu", "nvidia"), help="what the runtime's PyTorch is for")
    parser.add_argument("--torch-index", default="", help="an index with CPU wheels of PyTorch, for --flavor cpu")
    parser.add_argument("--push", action="store_true", help="fail when there is no cluster or registry to push to")
    given = parser.parse_args()
    started = time.monotonic()
    try:
        with _only_one():
            made = make(base=given.base, flavor=given.flavor, torch_index=given.torch_index)
            deliver(made, required=given.push)
    except ClusterError as error:
        sys.exit(str(error))
    print(f"images: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
