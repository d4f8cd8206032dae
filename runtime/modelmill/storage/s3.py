"""A store in an S3 bucket, at AWS or at any server that honours conditional writes (If-None-Match, If-Match).

s3fs keeps the connections and retries; requests are S3's own, because listings must not come from a cache and a
conditional write must carry its header. A retried conditional write may meet its own first try, whose answer was lost:
each write therefore leaves a token in the object's metadata, and a refusal whose token is ours was a success.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import s3fs

from modelmill.storage.backend import Found
from modelmill.storage.errors import AccessDenied, AlreadyExists, BucketNotFound, Conflict, NoSpace, NotFound, StorageError

_PART_BYTES = 16 << 20
_MAX_PARTS = 9_000
_CONCURRENT_PARTS = 4
_REFUSED = ("PreconditionFailed", "412")
_IN_FLIGHT = ("ConditionalRequestConflict", "OperationAborted")
"""Another conditional write to the same object is not decided yet."""
_PAUSES = (0.1, 0.3, 1.0, 3.0)
_TOKEN = "modelmill-writer"


class S3Store:
    def __init__(self) -> None:
        self._connected: s3fs.S3FileSystem | None = None
        self._process = 0

    def open_read(self, url: str) -> BinaryIO:
        with _explained(url):
            return cast(BinaryIO, self._client.open(url.removeprefix("s3://"), "rb"))

    def write_bytes(self, url: str, data: bytes) -> None:
        with _explained(url):
            self._put(url, data)

    def create_bytes(self, url: str, data: bytes) -> None:
        with _explained(url):
            if not self._put(url, data, IfNoneMatch="*"):
                raise AlreadyExists(f"{url}: already exists")

    def replace_bytes(self, url: str, data: bytes, *, expected: bytes | None) -> None:
        with _explained(url):
            try:
                answer = self._call("get_object", url)
                tag, current = answer["ETag"], self._read(answer)
            except FileNotFoundError:
                tag, current = None, None
            condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
            if current != expected or not self._put(url, data, **condition):
                raise Conflict(f"{url}: somebody else changed it meanwhile; read it again and decide anew")

    def size(self, url: str) -> int | None:
        with _explained(url):
            try:
                return int(self._call("head_object", url)["ContentLength"])
            except FileNotFoundError:
                return None

    def children(self, url: str) -> list[str]:
        with _explained(url):
            return sorted({path.split("/")[0] for page in self._pages(url, Delimiter="/") for path, _ in page})

    def files(self, url: str) -> list[Found]:
        with _explained(url):
            found = [
                Found(path=path, bytes=item["Size"], modified=item["LastModified"].timestamp())
                for page in self._pages(url)
                for path, item in page
                if not path.endswith("/")  # markers that some clients write for folders
            ]
        return sorted(found, key=lambda file: file.path)

    def remove(self, url: str) -> None:
        with _explained(url):
            self._call("delete_object", url)

    def remove_tree(self, url: str) -> None:
        bucket, _ = _split(url)
        with _explained(url):
            for page in list(self._pages(url)):
                keys = [{"Key": item["Key"]} for _, item in page]
                if keys:
                    answer = self._client.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
                    for failure in answer.get("Errors", []):
                        raise StorageError(f"{url}: {failure['Key']} could not be removed: {failure.get('Message')}")

    def upload(self, path: Path, url: str) -> None:
        part = max(_PART_BYTES, path.stat().st_size // _MAX_PARTS + 1)
        with _explained(url):
            self._client.put_file(str(path), url.removeprefix("s3://"), chunksize=part, max_concurrency=_CONCURRENT_PARTS)

    def download(self, url: str, path: Path) -> None:
        with _explained(url):
            self._client.get_file(url.removeprefix("s3://"), str(path), chunksize=_PART_BYTES, max_concurrency=_CONCURRENT_PARTS)

    def copy(self, source: str, target: str) -> None:
        with _explained(source):
            self._client.cp_file(source.removeprefix("s3://"), target.removeprefix("s3://"))

    @property
    def _client(self) -> s3fs.S3FileSystem:
        if self._connected is None or self._process != os.getpid():  # connections do not survive a fork
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            self._connected = s3fs.S3FileSystem(
                client_kwargs={"region_name": region},
                config_kwargs={
                    "retries": {"mode": "standard", "max_attempts": 4},
                    # Checksums that older servers refuse; the registry has its own digests.
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                },
                use_listings_cache=False,
                skip_instance_cache=True,
            )
            self._process = os.getpid()
        return self._connected

    def _call(self, method: str, url: str, **arguments: Any) -> dict[str, Any]:
        bucket, key = _split(url)
        return cast(dict[str, Any], self._client.call_s3(method, Bucket=bucket, Key=key, **arguments))

    def _read(self, answer: dict[str, Any]) -> bytes:
        from fsspec.asyn import sync

        return cast(bytes, sync(self._client.loop, answer["Body"].read))

    def _put(self, url: str, data: bytes, **condition: str) -> bool:
        """Whether the object was written; False when the condition did not hold."""
        token = uuid.uuid4().hex
        for pause in (*_PAUSES, None):
            try:
                self._call("put_object", url, Body=data, Metadata={_TOKEN: token}, **condition)
                return True
            except OSError as error:
                if condition and (_code(error) in _REFUSED or isinstance(error, FileExistsError)):
                    return self._written_by(url) == token
                if _code(error) not in _IN_FLIGHT or pause is None:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _written_by(self, url: str) -> str | None:
        try:
            return cast(str | None, self._call("head_object", url).get("Metadata", {}).get(_TOKEN))
        except FileNotFoundError:
            return None

    def _pages(self, url: str, **options: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """(path below the URL, object) of everything below it; with a delimiter also the folders."""
        bucket, key = _split(url)
        prefix = f"{key}/" if key else ""
        while True:
            page = self._client.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **options)
            items = [(item["Key"], item) for item in page.get("Contents", [])]
            items += [(item["Prefix"], item) for item in page.get("CommonPrefixes", [])]
            yield [(path.removeprefix(prefix), item) for path, item in items if path != prefix]
            if not page.get("IsTruncated"):
                return
            options = {**options, "ContinuationToken": page["NextContinuationToken"]}


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key.strip("/")


def _code(error: BaseException) -> str:
    """S3's own name of an error, which s3fs keeps as the cause."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns what s3fs and botocore raise into ours."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise _explain(url, error) from error


def _explain(url: str, error: Exception) -> StorageError:
    bucket, code = _split(url)[0], _code(error)
    if code == "NoSuchBucket":
        return BucketNotFound(f"{url}: bucket {bucket!r} does not exist; create it or correct registry.uri")
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{url}: there is no such object")
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        told = code or type(error).__name__
        return AccessDenied(
            f"{url}: access denied ({told}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the credentials Secret, "
            f"and that they may use bucket {bucket!r}"
        )
    if code in ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"):
        return NoSpace(f"{url}: no space left ({code}); enlarge the store or remove old versions and workspaces")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    return StorageError(f"{url}: the store at {endpoint} did not do it after several tries: {error}")
