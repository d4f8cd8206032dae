"""Clients of every kind at once, in an open loop: right ones, wrong ones, some that hang up, and some that dribble."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

MALFORMED, ABORTED = 0.01, 0.05
"""Shares of the requests."""
WORKERS = 160
DRIBBLERS = 8
DRIBBLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Asked:
    message: bytes
    right: frozenset[int]
    """Statuses that are right."""
    doubled: tuple[float, ...] = ()
    """What a 200 must hold."""


@dataclass(slots=True)
class Told:
    sent: int = 0
    """Whole requests, those included whose sender hung up."""
    codes: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    aborted: int = 0
    dribbled: int = 0
    """Connections that the server let go because nothing whole came."""


def _post(path: str, body: bytes, *headers: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: soak", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


WELL = frozenset({200, 503})


def well_formed(source: random.Random) -> Asked:
    row = [source.randrange(-99, 99) / 2 for _ in range(4)]  # exact in every float
    doubled = tuple(2 * value for value in row)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    match source.randrange(3):
        case 0:
            return Asked(_post("/v1/models/m:predict", json.dumps({"instances": [row]}).encode()), WELL, doubled)
        case 1:
            body = json.dumps({"inputs": [{**tensor, "data": row}]}).encode()
            return Asked(_post("/v2/models/m/infer", body), WELL, doubled)
        case _:
            header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 16}}]}).encode()
            raw = np.asarray(row, np.float32).tobytes()
            length = f"Inference-Header-Content-Length: {len(header)}"
            return Asked(_post("/v2/models/m/infer", header + raw, length), WELL, doubled)


WRONG = (
    Asked(_post("/v1/models/m:predict", b'{"instances": [['), frozenset({400})),
    Asked(_post("/v1/models/m:predict", b'{"instances": [[1, 2]]}'), frozenset({400})),
    Asked(_post("/v2/models/m/infer", b'{"inputs": [{"name": "z"}]}'), frozenset({400})),
    Asked(_post("/v2/models/m/infer", b"xx", "Inference-Header-Content-Length: 9"), frozenset({400})),
    Asked(_post("/v2/models/other/infer", b"{}"), frozenset({404})),
    Asked(b"GET /v1/models/m:predict HTTP/1.1\r\nHost: soak\r\n\r\n", frozenset({405})),
    Asked(_post("/v2/models/m/infer", b"{}", "Content-Encoding: br"), frozenset({415})),
)


class Clients:
    def __init__(self, port: int, *, rate: float, seed: int = 0) -> None:
        """`rate`: requests a second, at random times."""
        self.told = Told()
        self._port, self._rate = port, rate
        self._source = random.Random(seed)
        self._due: asyncio.Queue[Asked | None] = asyncio.Queue()

    async def run(self, seconds: float) -> None:
        workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        dribblers = [asyncio.create_task(self._dribble()) for _ in range(DRIBBLERS)]
        begun = due = time.monotonic()
        while due < begun + seconds:
            due += self._source.expovariate(self._rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            malformed = self._source.random() < MALFORMED
            self._due.put_nowait(self._source.choice(WRONG) if malformed else well_formed(self._source))
        for _ in workers:
            self._due.put_nowait(None)
        await asyncio.gather(*workers)
        for dribbler in dribblers:
            dribbler.cancel()
        await asyncio.gather(*dribblers, return_exceptions=True)

    async def _work(self) -> None:
        """One client with one connection, and a new one where the last is gone."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while (asked := await self._due.get()) is not None:
            if streams is None or streams[1].is_closing():
                streams = await asyncio.open_connection("127.0.0.1", self._port)
            self.told.sent += 1
            streams[1].write(asked.message)
            if self._source.random() < ABORTED:
                self.told.aborted += 1
                streams[1].close()
                streams = None
                continue
            try:
                status, headers, body = await asyncio.wait_for(_answer(streams[0]), 30)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                self.told.wrong.append(f"no answer: {error!r}")
                streams[1].close()
                streams = None
                continue
            self.told.codes[status] += 1
            self._judge(asked, status, headers, body)
        if streams:
            streams[1].close()

    def _judge(self, asked: Asked, status: int, headers: dict[str, str], body: bytes) -> None:
        if status not in asked.right:
            self.told.wrong.append(f"{status} instead of {sorted(asked.right)}: {body[:200]!r}")
        elif status == 503 and int(headers.get("retry-after", 0)) < 1:
            self.told.wrong.append("503 without Retry-After")
        elif status == 200 and (got := _numbers(json.loads(body))) != asked.doubled:
            self.told.wrong.append(f"{got} instead of {asked.doubled}")

    async def _dribble(self) -> None:
        """A head that never ends, byte by byte."""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(b"POST /v2/models/m/infer HTTP/1.1\r\nX-Slow: ")
                while await _silent(reader, DRIBBLE_SECONDS):
                    writer.write(b"z")
                self.told.dribbled += 1
            finally:
                writer.close()


async def _silent(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether nothing came for so long; an answer, or the end, is something."""
    try:
        await asyncio.wait_for(reader.read(1), seconds)
    except TimeoutError:
        return True
    except ConnectionError:
        pass
    return False


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def _numbers(answer: dict[str, list[list[float]]] | dict[str, list[dict[str, list[float]]]]) -> tuple[float, ...]:
    found = answer.get("predictions") or answer["outputs"]
    first = found[0]
    return tuple(first["data"] if isinstance(first, dict) else first)
