"""The resolve stage: a channel or a version, and the variant that fits the wish."""

from pathlib import Path

import pytest

from modelmill.artifact import publish, resolve
from modelmill.artifact.errors import VariantNotFound
from modelmill.artifact.manifest import Variant
from modelmill.artifact.select import choose
from modelmill.contract.jobfile import JobFile, Resolve, Selection
from tests.unit.artifact.helpers import job_in


def variant(name: str, size: int, accuracy: float | None, millis: float | None, tier: str | None = None) -> Variant:
    metrics = {} if accuracy is None else {"accuracy": accuracy}
    return Variant(name=name, file=name, bytes=size, metrics=metrics, latency_millis=millis, tier=tier)


DENSE = variant("dense", 1000, 0.98, 1.0)
INT8 = variant("int8", 260, 0.978, 0.4, "Light")
SMALL = variant("small", 100, 0.95, 0.6, "Light")
EQUAL = variant("equal", 500, 0.98, 0.9)
ALL = (DENSE, INT8, SMALL, EQUAL)


@pytest.mark.parametrize(
    ("wish", "chosen"),
    [
        (Selection(name="small"), "small"),
        (Selection(tier="Light"), "int8"),
        (Selection(), "equal"),
        (Selection(max_drop=0.01), "int8"),
        (Selection(max_drop=0.05), "int8"),
        (Selection(max_drop=0.05, prefer="Size"), "small"),
        (Selection(max_drop=0.0, prefer="Latency"), "equal"),
        (Selection(max_drop=0.002), "int8"),
        (Selection(max_drop=0.001), "equal"),
    ],
)
def test_the_variant_that_fits_the_wish_is_chosen(wish: Selection, chosen: str) -> None:
    assert choose(ALL, wish).name == chosen


@pytest.mark.parametrize(
    ("variants", "wish", "words"),
    [
        (ALL, Selection(name="int4"), "no variant 'int4'; there are dense, int8, small, equal"),
        (ALL, Selection(tier="Edge"), r"no variant has tier 'Edge'; there are dense \(no tier\), int8 \(Light\)"),
        ((variant("a", 1, None, None), variant("b", 1, None, None)), Selection(), "nothing was measured for variants a, b"),
    ],
)
def test_a_wish_that_nothing_fits_is_told_with_what_there_is(variants: tuple[Variant, ...], wish: Selection, words: str) -> None:
    with pytest.raises(VariantNotFound, match=words):
        choose(variants, wish)


def test_without_dense_the_best_one_is_the_measure() -> None:
    assert choose((INT8, SMALL), Selection()).name == "int8"
    assert choose((INT8, SMALL), Selection(max_drop=0.03, prefer="Size")).name == "small"


def test_an_imported_model_without_figures_is_served_as_it_is() -> None:
    assert choose((variant("dense", 10, None, None),), Selection()).name == "dense"
    assert choose((variant("fp16", 10, None, None),), Selection(max_drop=0.1)).name == "fp16"


def wanted(folder: Path, resolve: Resolve | None, *, model: str = "digits") -> JobFile:
    url = f"file://{folder}/registry"
    return JobFile(stage="resolve", namespace="team", name="svc", uid="u", model=model, registry=url, resolve=resolve)


def test_a_channel_and_a_version_resolve_to_a_digest(tmp_path: Path) -> None:
    done = [publish.run(job_in(tmp_path, uid=uid)).published for uid in ("a", "b")]
    assert done[0] is not None
    assert done[1] is not None
    by_channel = resolve.run(wanted(tmp_path, Resolve(channel="stable")))
    assert by_channel.resolved is not None
    assert (by_channel.resolved.version, by_channel.resolved.digest) == (2, done[1].digest)
    assert (by_channel.resolved.variant, by_channel.resolved.file_bytes) == ("dense", 5000)
    wish = Resolve(version=1, selection=Selection(max_drop=0.01))
    by_version = resolve.run(wanted(tmp_path, wish))
    assert by_version.resolved is not None
    assert (by_version.resolved.digest, by_version.resolved.variant) == (done[0].digest, "int8")


def test_what_cannot_be_resolved_has_a_reason_and_a_sentence(tmp_path: Path) -> None:
    empty = resolve.run(wanted(tmp_path, Resolve(channel="stable")))
    assert (empty.ok, empty.reason) == (False, "ChannelEmpty")
    assert empty.message == "channel 'stable' of model 'digits' has no version yet: publish one, or name a version"
    publish.run(job_in(tmp_path))
    cases = {
        "VersionNotFound": resolve.run(wanted(tmp_path, Resolve(version=9))),
        "VariantNotFound": resolve.run(wanted(tmp_path, Resolve(version=1, selection=Selection(name="int4")))),
        "ModelNotFound": resolve.run(wanted(tmp_path, Resolve(version=1), model="cifar")),
        "RegistryError": resolve.run(wanted(tmp_path, None)),
    }
    assert {reason: result.reason for reason, result in cases.items()} == {reason: reason for reason in cases}
    assert not any(result.ok for result in cases.values())
