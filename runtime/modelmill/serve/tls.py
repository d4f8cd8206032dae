"""The server's certificate, from files that a Secret mounts; read again when they change, without a restart."""

import logging
import ssl
from pathlib import Path

from modelmill.contract.servicefile import Tls

log = logging.getLogger(__name__)


class Certificate:
    def __init__(self, files: Tls) -> None:
        self._files = files
        self._state: tuple[tuple[int, int], ...] = ()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._read()

    def _read(self) -> None:
        stats = [Path(name).stat() for name in (self._files.certificate_file, self._files.key_file)]
        state = tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)
        if state != self._state:
            self.context.load_cert_chain(self._files.certificate_file, self._files.key_file)
            self._state = state

    def refresh(self) -> None:
        """New connections get the new certificate; a broken pair of files keeps the old one."""
        try:
            self._read()
        except (OSError, ssl.SSLError) as error:
            log.warning("the certificate %s cannot be read, the old one stays: %s", self._files.certificate_file, error)
