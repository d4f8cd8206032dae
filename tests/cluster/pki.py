"""Certificates and kubeconfigs of a test cluster, made with the openssl program.

One authority signs everything: the serving certificates, the clients of each component, and any user that a test
invents. Keys are elliptic, which takes milliseconds. What exists is kept, so calling again changes nothing.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"  # the machine's own openssl.cnf would add extensions


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A certificate and its key, as files."""

    crt: Path
    key: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Authority:
    """A certificate authority in a folder."""

    folder: Path

    @property
    def root(self) -> Certificate:
        """The authority's own certificate."""
        return self._make(
            "ca", "/CN=modelmill-cluster", ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        )

    def issue(self, name: str, *, user: str, groups: Sequence[str] = (), addresses: Sequence[str] = ()) -> Certificate:
        """A certificate for a server at these addresses ('IP:...', 'DNS:...') or for a client with this user name."""
        subject = "".join(f"/O={_escape(group)}" for group in groups) + f"/CN={_escape(user)}"
        extensions = [
            "basicConstraints=critical,CA:FALSE",
            "extendedKeyUsage=serverAuth,clientAuth",
            *([f"subjectAltName={','.join(addresses)}"] if addresses else []),
        ]
        root = self.root
        return self._make(name, subject, extensions, "-CA", str(root.crt), "-CAkey", str(root.key))

    def signing_pair(self, name: str) -> Certificate:
        """A key pair without a certificate, for service account tokens: `crt` holds the public key."""
        pair = Certificate(crt=self.folder / f"{name}.pub", key=self.folder / f"{name}.key")
        if not pair.crt.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(pair.key))
            _openssl("ec", "-in", str(pair.key), "-pubout", "-out", str(pair.crt))
        return pair

    def kubeconfig(self, name: str, *, server: str, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig, complete in one file, for a user with these groups."""
        path = self.folder / f"{name}.kubeconfig"
        pair = self.issue(name, user=user, groups=groups)
        cluster = {"server": server, "certificate-authority-data": _encoded(self.root.crt)}
        client = {"client-certificate-data": _encoded(pair.crt), "client-key-data": _encoded(pair.key)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "modelmill",
            "clusters": [{"name": "modelmill", "cluster": cluster}],
            "users": [{"name": user, "user": client}],
            "contexts": [{"name": "modelmill", "context": {"cluster": "modelmill", "user": user}}],
        }
        beside = path.with_suffix(".new")
        beside.touch(mode=0o600)
        beside.write_text(yaml.safe_dump(document))
        beside.replace(path)
        return path

    def _make(self, name: str, subject: str, extensions: Sequence[str], *signer: str) -> Certificate:
        pair = Certificate(crt=self.folder / f"{name}.crt", key=self.folder / f"{name}.key")
        if pair.crt.exists():
            return pair
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "openssl.cnf"
        config.write_text(_CONFIG)
        beside = pair.crt.with_suffix(".new")
        added = [part for extension in extensions for part in ("-addext", extension)]
        request = ["req", "-x509", "-config", str(config), *_NEW_KEY, "-days", "3650", "-subj", subject, *added, *signer]
        _openssl(*request, "-keyout", str(pair.key), "-out", str(beside))
        beside.replace(pair.crt)  # last: a certificate that exists has its key beside it
        return pair


def _openssl(*arguments: str) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    ended = subprocess.run(["openssl", *arguments], capture_output=True, text=True, env=environment, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed (version 3 or newer is needed): {ended.stderr.strip()}")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("/", "\\/").replace("+", "\\+")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
