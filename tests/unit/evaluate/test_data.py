"""The digest of held-out data changes exactly when a byte or a name does."""

from pathlib import Path

import pytest

from modelmill.evaluate import data


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert data.digest(f"file://{tmp_path}/a") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_changes_with_any_byte_and_any_name(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> str | None:
        (tmp_path / name).mkdir()
        for own, content in files.items():
            (tmp_path / name / own).write_bytes(content)
        return data.digest(f"file://{tmp_path}/{name}")

    assert folder("one", a=b"1", b=b"2") == folder("same", b=b"2", a=b"1")
    assert len({folder("bytes", a=b"1", b=b"3"), folder("names", a=b"1", c=b"2"), data.digest(f"file://{tmp_path}/one")}) == 3


def test_data_that_only_the_recipe_can_read_have_no_digest(caplog: pytest.LogCaptureFixture) -> None:
    assert data.digest("nosuchscheme://host/table") is None
    assert "earlier figures are not reused" in caplog.text
