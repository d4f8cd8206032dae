"""What `modelmill compile` refuses: the reason and the next step on one line, and nothing is published.

What it publishes, and how that is served, is in tests/unit/serve/test_compiled.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelmill.compress.codecs.coded import CodedWeight
from modelmill.compress.grids.uniform import Uniform
from modelmill.compress.weights import Plain, write_weights
from modelmill.serve.compiled import machine
from tests.unit.cli.conftest import Command
from tests.unit.serve.compiled import RECIPE, published, registry_at

BRANCH = RECIPE.replace('        return {"mean"', '        if x.sum() > 0:\n            x = x + 1\n        return {"mean"')
BY_FOUR = RECIPE.replace('        return {"mean"', '        x = x + 1 if ids.shape[1] % 4 else x\n        return {"mean"')
COUNTS = RECIPE.replace(
    "        self.last,", '        self.register_buffer("calls", torch.zeros(()), persistent=False)\n        self.last,'
)
COUNTS = COUNTS.replace('        return {"mean"', '        self.calls.add_(1)\n        return {"mean"')
STEPS = RECIPE.replace("        self.last,", "        self.step = 0\n        self.last,")
STEPS = STEPS.replace('        return {"mean"', '        self.step += 1\n        return {"mean"')


def refused(modelmill: Command, folder: Path, why: str, *options: str, version: int = 1) -> str:
    done = modelmill("compile", f"text@{version}", "--registry", registry_at(folder).url, *(options or ("--length", "8")))
    assert done.code == 1 and why in done.err, done.err
    assert len(done.err.strip().splitlines()) == 1 and not done.out
    registry = registry_at(folder)
    assert registry.numbers("text") == registry.versions("text") == list(range(1, version + 1))
    return done.err


def test_without_a_compiler(modelmill: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused(modelmill, tmp_path, "there is no C++ compiler 'no-such-compiler' here: install g++, or name one in CXX")


def test_without_torchs_headers(modelmill: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch/__init__.py"))
    refused(modelmill, tmp_path, "torch has no headers here")


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (BRANCH, "torch.export cannot follow the module's forward: "),
        (BY_FOUR, "the module's forward takes other ways for other sizes ((L['inputs'][0].size()[1] % 4) == 0)"),
        (COUNTS, "the module's forward changes 'module.calls'"),
        (STEPS, "the module's forward changes 'step'"),
    ],
    ids=["a branch on values", "a branch on sizes", "a buffer that counts", "a number that counts"],
)
def test_a_forward_that_is_no_graph(modelmill: Command, tmp_path: Path, recipe: str, why: str) -> None:
    published(tmp_path, recipe=recipe)
    assert len(refused(modelmill, tmp_path, why)) < 700


def test_a_length_that_the_model_does_not_take(modelmill: Command, tmp_path: Path) -> None:
    published(tmp_path)
    shape = ("--rows", "8", "--length", "13")
    refused(modelmill, tmp_path, "the model cannot run with 8 rows of length 13: RuntimeError: The size", *shape)


def test_a_variant_with_compressed_weights(modelmill: Command, tmp_path: Path) -> None:
    published(tmp_path)
    # Copies: the file is written anew.
    tensors = {name: tensor.clone() for name, tensor in load_file(tmp_path / "weights.safetensors").items()}
    codes = CodedWeight.of(Uniform(bits=4).encode(tensors["last.weight"], name="last.weight"))
    plain = {name: Plain(data=tensor) for name, tensor in tensors.items()}
    write_weights(tmp_path / "weights.safetensors", {**plain, "last.weight": codes})
    published(tmp_path)
    refused(modelmill, tmp_path, "1 layers (last, ...) compute with compressed weights", version=2)


def test_a_processor_of_another_kind(modelmill: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor: 0\nflags\t\t: fpu sse sse2 avx\n")
    read = machine.instructions
    monkeypatch.setattr(machine, "instructions", lambda: read(cpuinfo))
    refused(modelmill, tmp_path, "this machine's processor has neither avx2 nor avx512 of x86-64")
    cpuinfo.write_text(f"flags: {' '.join(machine.NEEDED[machine.Level.avx2])}\n")
    refused(modelmill, tmp_path, "this machine's processor has avx2: use another", "--instructions", "avx512")


def test_instructions_are_those_of_the_first_processor_in_one_spelling(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("vendor_id: x\nflags\t\t: avx512_vnni amx_tile fma\n\nflags: sse\n")
    compilers = ("avx512vnni", "amx-tile", "fma")
    assert machine.instructions(tmp_path / "cpuinfo") == {machine.plain(one) for one in compilers}
    assert machine.instructions(tmp_path / "nowhere") == frozenset()


def test_a_version_or_variant_that_is_not_there(modelmill: Command, tmp_path: Path) -> None:
    published(tmp_path)
    refused(modelmill, tmp_path, "has no variant 'int8'; it has dense", "--variant", "int8")
    shutil.rmtree(tmp_path / "registry/default/text/1")
    done = modelmill("compile", "text@1", "--registry", registry_at(tmp_path).url)
    assert done.code == 1 and "model 'text'" in done.err
