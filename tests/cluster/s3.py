"""A real S3 server for tests: the Versity Gateway over a temporary folder.

It honours conditional writes (`If-None-Match: *`, `If-Match`), which the model registry relies on.

    with s3_server() as s3:
        fsspec.filesystem("s3", key=s3.access_key, secret=s3.secret_key, endpoint_url=s3.endpoint)
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.client
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.cluster import build
from tests.cluster.controlplane import watched_folder
from tests.cluster.process import ClusterError, Programs, http_status
from tests.ports import free_ports


@dataclass(frozen=True, kw_only=True, slots=True)
class S3:
    """Where the server is and who may use it."""

    host: str
    port: int
    access_key: str
    secret_key: str
    bucket: str

    @property
    def endpoint(self) -> str:
        """The URL for `endpoint_url`."""
        return f"http://{self.host}:{self.port}"

    def create_bucket(self, name: str) -> None:
        """Creates a bucket; names need three letters or more."""
        status, body = self._put(f"/{name}")
        if status != 200:
            raise ClusterError(f"creating bucket {name!r} failed with {status}: {body}")

    def _put(self, path: str) -> tuple[int, str]:
        """An empty PUT, signed by hand (signature version 4): one request is not worth a client library."""
        now = datetime.datetime.now(datetime.UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        digest = hashlib.sha256(b"").hexdigest()
        headers = {"host": f"{self.host}:{self.port}", "x-amz-content-sha256": digest, "x-amz-date": stamp}
        names = ";".join(headers)
        canonical = "\n".join(["PUT", path, "", *(f"{k}:{v}" for k, v in headers.items()), "", names, digest])
        scope = f"{day}/us-east-1/s3/aws4_request"
        signed = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        proof = hmac.digest(key, signed.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={proof}"
        )
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request("PUT", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@contextmanager
def s3_server(*, host: str = "127.0.0.1", bucket: str = "modelmill") -> Iterator[S3]:
    """An S3 server with one bucket; bind it to the node's address for pods to reach it."""
    program = build.program("versitygw")
    with watched_folder("modelmill-s3-") as folder:
        (port,) = free_ports(1)
        s3 = S3(host=host, port=port, access_key="modelmill", secret_key=secrets.token_hex(16), bucket=bucket)
        programs = Programs(folder)
        for place in ("data", "metadata"):
            (folder / place).mkdir()
        credentials = {"ROOT_ACCESS_KEY": s3.access_key, "ROOT_SECRET_KEY": s3.secret_key}
        # Metadata beside the data: extended attributes are not there on every file system.
        backend = ["posix", "--sidecar", str(folder / "metadata"), str(folder / "data")]
        programs.start("versitygw", [program, "--port", f"{host}:{port}", *backend], env=credentials)
        try:
            programs.wait("versitygw", lambda: http_status(port, "/", host=host) is not None)
            s3.create_bucket(bucket)
            yield s3
        finally:
            programs.stop_all(grace=0)
