"""`modelmill bench` against a real server: what it sends, prints, writes, and exits with."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelmill.signature import Signature, Tensor
from tests.ports import free_port
from tests.unit.cli.conftest import Command
from tests.unit.serve.support import DOUBLE, MIXED, mixed, running

SHORT = ("--duration", "300ms", "--concurrency", "2")


def url(server: Any) -> str:
    return f"http://127.0.0.1:{server.server.port}"


@pytest.mark.parametrize("protocol", ["v2", "v2-json", "v1"])
def test_every_answer_is_counted_once_in_every_protocol(modelmill: Command, protocol: str) -> None:
    with running(mixed, signature=MIXED) as server:
        options = ("--model", "m", "--length", "4", "--rows", "3", "--protocol", protocol, "--json", "-")
        done = modelmill("bench", url(server), *options, *SHORT)
        assert done.code == 0, done.err
        figures = json.loads(done.out)
        # One more to see whether the request is accepted at all.
        assert 3 * (figures["ok"] + 1) == server.metric("inferences_total")
    assert figures["failed"] == 0
    assert figures["codes"] == {"200": figures["ok"]}
    assert figures["rowsPerSecond"] == pytest.approx(3 * figures["rps"])
    times = figures["latencyMillis"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["p999"] <= times["max"]
    form = {"v2": "v2 with binary tensors", "v2-json": "v2 in JSON", "v1": "v1"}[protocol]
    for words in (f"m at {url(server)}: {form}, 2 connections, 3 rows", "p99.9", "errors     none", "of a core"):
        assert words in done.err


def test_an_open_loop_tells_how_late_it_woke_up(modelmill: Command, tmp_path: Path) -> None:
    with running() as server:
        options = ("--model", "m", "--rate", "100", "--duration", "1s", "--json", str(tmp_path / "figures.json"))
        done = modelmill("bench", url(server), *options)
    assert done.code == 0, done.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["ok"] == pytest.approx(100, abs=50)
    assert figures["sentLateP99Millis"] > 0
    assert "100 requests a second" in done.out
    assert "woke up late by" in done.out


def test_inputs_come_from_files(modelmill: Command, tmp_path: Path) -> None:
    seen: list[Any] = []

    def remember(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x

    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", given)
    with running(remember, signature=DOUBLE) as server:
        done = modelmill("bench", url(server), "--model", "m", "--input", f"x={tmp_path}/x.npy", *SHORT)
    assert done.code == 0, done.err
    assert (seen[-1][:2].numpy() == given).all()
    assert "2 rows in each request" in done.out


@pytest.mark.parametrize("name", ["BOOL", "UINT8", "INT64", "FP16", "BF16", "FP64"])
def test_inputs_are_made_up_in_every_datatype(modelmill: Command, name: str) -> None:
    tensor = Tensor(name="x", datatype=name, shape=(-1, 2, -1))
    with running(lambda x: x, signature=Signature(inputs=(tensor,), outputs=(tensor,))) as server:
        done = modelmill("bench", url(server), "--model", "m", "--length", "5", *SHORT)
    assert done.code == 0, done.err


def test_failed_requests_fail_the_command_unless_they_are_allowed(modelmill: Command) -> None:
    calls, last = itertools.count(), math.inf

    def breaks_later(x: torch.Tensor) -> torch.Tensor:
        if next(calls) > last:
            raise RuntimeError("out of luck")
        return x

    with running(breaks_later) as server:
        last = next(calls) + 20  # those before it are the warm-up's
        done = modelmill("bench", url(server), "--model", "m", *SHORT)
        assert done.code == 1
        assert "errors     500: " in done.out
        assert "out of luck" in done.out
        refused = modelmill("bench", url(server), "--model", "m", *SHORT)
        assert refused.code == 1
        assert "the first request was answered 500" in refused.err
        last = next(calls) + 20
        allowed = modelmill("bench", url(server), "--model", "m", "--allow-errors", *SHORT)
        assert (allowed.code, "500" in allowed.out) == (0, True)


def test_the_api_key_is_read_from_a_file(modelmill: Command, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    with running(api_key_file=str(tmp_path / "key")) as server:
        done = modelmill("bench", url(server), "--model", "m", "--api-key-file", f"{tmp_path}/key", *SHORT)
        assert done.code == 0, done.err
        assert "401" in modelmill("bench", url(server), "--model", "m", *SHORT).err


def test_mistakes_are_one_line_that_says_what_to_do(modelmill: Command, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_text("no numbers")
    np.save(tmp_path / "complex.npy", np.zeros((2, 2), dtype=np.complex64))
    np.save(tmp_path / "k.npy", np.zeros(3, dtype=np.int64))
    with running(mixed, signature=MIXED) as server:
        here = ("bench", url(server), "--model", "m")
        cases: dict[tuple[str, ...], str] = {
            here: "input 'a' has shape [-1, -1]: give its free sizes with --length N, or the whole input with --input a=FILE",
            (*here, "--input", f"a={tmp_path}/x.npy"): "not a file that numpy.save wrote",
            (*here, "--input", "b=/nowhere"): "not a file that numpy.save wrote",
            (*here, "--input", f"b={tmp_path}/complex.npy", "--length", "1"): "the model has no such input; it has a, k",
            (*here, "--input", f"a={tmp_path}/complex.npy"): "no datatype of the protocol is complex64",
            (*here, "--input", f"a={tmp_path}/complex.npy", "--input", f"k={tmp_path}/k.npy"): "different numbers of rows",
            ("bench", url(server), "--model", "other"): "tells no inputs of model 'other': 404",
            ("bench", f"http://127.0.0.1:{free_port()}", "--model", "m", "--timeout", "500ms"): "no connection",
            ("bench", "localhost:8080", "--model", "m"): "url 'localhost:8080' must be http://HOST",
        }
        for arguments, words in cases.items():
            done = modelmill(*arguments)
            assert done.code == 1, arguments
            assert done.err.startswith("modelmill: ")
            assert words in done.err
            assert "\n" not in done.err
        usage = {
            ("--duration", "soon"): "'soon' is no duration: write 500ms, 10s",
            ("--input", "a"): "'a' must be NAME=FILE",
            ("--rate", "5", "--concurrency", "5"): "cannot be combined with --concurrency 5",
        }
        for arguments, words in usage.items():
            done = modelmill(*here, "--length", "2", *arguments)
            assert (done.code, words in " ".join(done.err.split())) == (2, True), done.err
