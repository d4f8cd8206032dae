"""Serves a version from a registry without Kubernetes: the same server, on a laptop.

python -m modelmill.serve.local --registry file:///models --model digits
python -m modelmill.serve.local --registry s3://bucket/models --model digits --version 3 --variant int8
"""

import argparse
import os
import sys

import uvloop

from modelmill import failures
from modelmill.contract.servicefile import ServiceFile
from modelmill.observe import logs


def service_file(
    *, registry: str, namespace: str, model: str, channel: str, version: int | None, variant: str | None, port: int
) -> ServiceFile:
    """What the operator would have resolved: the version's digest, and a variant (the version's first unless named)."""
    from modelmill.artifact.registry import Registry

    store = Registry(url=registry, namespace=namespace)
    number = version if version is not None else store.require_channel(model, channel).version
    found = store.read_manifest(model, number)
    return ServiceFile(
        namespace=namespace,
        service="local",
        model=model,
        version=number,
        digest=found.digest,
        variant=variant or found.manifest.variants[0].name,
        registry=registry,
        engine=found.manifest.engine,
        port=port,
        admin_port=port + 1,
        grpc_port=port + 2,
    )


def main() -> int:
    from modelmill.serve.__main__ import serve

    parser = argparse.ArgumentParser(prog="modelmill.serve.local", description="Serves a model from a registry on this machine.")
    parser.add_argument("--registry", default=os.environ.get("MODELMILL_REGISTRY"), help="URL, or MODELMILL_REGISTRY")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--model", required=True)
    parser.add_argument("--channel", default="stable")
    parser.add_argument("--version", type=int)
    parser.add_argument("--variant")
    parser.add_argument("--port", type=int, default=8080, help="the admin port is the next one, gRPC the one after")
    options = vars(parser.parse_args())
    if not options["registry"]:
        parser.error("name the registry with --registry or MODELMILL_REGISTRY")
    logs.configure()
    try:
        uvloop.run(serve(service_file(**options)))
    except Exception as error:
        print(failures.describe(error).message.splitlines()[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
