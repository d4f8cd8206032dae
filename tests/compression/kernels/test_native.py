import ctypes
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from modelmill.kernels import coded_conv2d, coded_linear, native, status
from modelmill.kernels.conv import Geometry
from modelmill.kernels.operations import Dense, Operation
from modelmill.kernels.program import Program
from modelmill.kernels.weight import Coded
from tests.compression.kernels.made import TABLES, module, running, weight

SOURCES = Path(__file__).parents[3] / "runtime" / "native" / "kernels"
HEADER = Path(__file__).with_name("emulate.hpp")


def test_the_native_module_is_built_and_says_what_it_runs() -> None:
    assert module() is not None
    assert status()["isa"] in module().names()


@pytest.mark.parametrize(("limit", "isa"), [("reference", "reference"), ("portable", "portable")])
def test_a_limit_is_kept_and_told(limit: str, isa: str) -> None:
    chosen = native.choose(module(), limit)
    assert chosen.isa == isa
    assert limit in chosen.reason


def test_an_unknown_limit_is_told_and_limits_nothing() -> None:
    chosen = native.choose(module(), "mmx")
    assert chosen.isa == native.choose(module()).isa
    assert "mmx is not known" in chosen.reason


def test_without_the_module_products_run_in_torch() -> None:
    chosen = native.choose(None)
    assert chosen.isa == "reference"
    assert "not built" in chosen.reason


def test_a_set_with_other_results_is_not_used_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(number: int, *rest: Any) -> None:
        module().linear(0, *rest)
        if number:
            ctypes.c_float.from_address(rest[-2]).value += 1

    broken: Any = SimpleNamespace(names=lambda: ["portable", "broken"], linear=wrong, conv=None)
    with caplog.at_level(logging.WARNING):
        chosen = native.choose(broken)
    assert chosen.isa == "portable"
    assert "broken gives other results" in chosen.reason
    assert "broken" in caplog.text


def test_the_module_refuses_sets_and_arguments_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="instruction set 9"):
        module().linear(9)
    with pytest.raises(TypeError, match="too few"):
        module().linear(0, 1, 2)
    with pytest.raises(TypeError):
        module().conv(0, "x")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module with AVX512-VNNI's source on emulated instructions; kept between runs, as compiling takes seconds."""
    if not Path("/usr/include/simde").is_dir() or shutil.which("g++") is None or "avx2" not in module().names():
        pytest.skip("emulating AVX512 takes SIMDe's headers (libsimde-dev), g++ and a processor with AVX2")
    sources = [*sorted(SOURCES.iterdir()), HEADER]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + sys.version.encode()).hexdigest()[:16]
    kept = os.environ.get("MODELMILL_CACHE")
    target = (Path(kept) if kept else tmp_path_factory.mktemp("emulated")) / "emulated" / f"{digest}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(f".{os.getpid()}")
        flags = ("-std=c++20", "-O1", "-mavx2", "-mfma", "-mbmi2", "-fPIC", "-shared", "-pthread", "-ffp-contract=off")
        include = sysconfig.get_path("include")
        command = [
            "g++",
            *flags,
            f'-DMODELMILL_EMULATE="{HEADER}"',
            f"-I{include}",
            str(SOURCES / "module.cpp"),
            "-o",
            str(fresh),
        ]
        subprocess.run(command, check=True)
        fresh.replace(target)
    spec = importlib.util.spec_from_file_location("emulated._kernels", target)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def both(found: ModuleType, function: Any, *arguments: Any, **rest: Any) -> list[torch.Tensor]:
    results = []
    for number in (0, 1):
        with running(found, number):
            results.append(function(*arguments, **rest))
    return results


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_avx512_vnni_gives_the_same_bits_as_plain_c(emulated: ModuleType, bits: int) -> None:
    assert emulated.names() == ["portable", "avx512vnni"]
    for table in TABLES:
        for zero, (outputs, inputs, groups) in ((False, (20, 96, 1)), (True, (33, 320, 5))):
            made = weight(bits, outputs, inputs, groups=groups, table=table, zero=zero)
            for rows in (1, 2, 3, 4, 7, 29):
                first, second = both(
                    emulated, coded_linear, torch.randn(rows, inputs), *made, bits=bits, inputs=inputs, outputs=outputs
                )
                assert torch.equal(first, second)


@pytest.mark.parametrize("bits", [4, 8])
def test_avx512_vnni_convolves_the_same_bits_as_plain_c(emulated: ModuleType, bits: int) -> None:
    for zero, groups in ((False, 1), (True, 3)):
        made = weight(bits, 20, 108, groups=groups, zero=zero)
        x = torch.randn(2, 11, 7, 6)
        first, second = both(
            emulated, coded_conv2d, x, *made, bits=bits, outputs=20, kernel=(3, 3), stride=(1, 2), padding=(1, 1)
        )
        assert torch.equal(first, second)


@pytest.mark.parametrize("bits", [4, 8])
def test_avx512_vnni_runs_programs_as_plain_c_does(emulated: ModuleType, bits: int) -> None:
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    first = Coded(*weight(bits, 20, 36, table="any"), bits, 20, 36)
    last = Dense.of(torch.randn(9, 20, 3, 3), torch.randn(9))
    operations = (
        Operation(weight=first, geometry=geometry, x=0),
        Operation(weight=last, geometry=geometry, x=1),
    )

    def answers() -> tuple[torch.Tensor, ...]:
        return Program(operations=operations, inputs=1, outputs=(1, 2)).run(torch.rand(2, 3, 7, 6, generator=seeded()))

    (coded, dense), (same, close) = both(emulated, answers)
    assert torch.equal(coded, same)
    torch.testing.assert_close(dense, close, rtol=1e-4, atol=1e-4)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
