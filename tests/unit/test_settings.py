"""Every setting is a flag and a variable, and wrong ones are refused in words."""

from dataclasses import fields
from pathlib import Path

import pytest

from modelmill_operator.settings import Settings, load


def test_flags_win_over_variables_and_variables_over_defaults() -> None:
    environment = {"MODELMILL_WORKERS": "3", "MODELMILL_LEASE_DURATION": "9", "POD_NAME": "operator-0", "NAMESPACES": "ignored"}
    settings = load(["--workers", "5", "--namespaces", "a, b"], environment=environment)
    assert (settings.workers, settings.lease_duration, settings.pod_name) == (5, 9.0, "operator-0")
    assert settings.namespaces == ("a", "b")
    assert settings.log_level == Settings().log_level


def test_help_tells_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(["--help"], environment={})
    text = capsys.readouterr().out
    missing = [field.name for field in fields(Settings) if f"--{field.name.replace('_', '-')} " not in text]
    assert missing == ["report_ca_pem"], "what is read from report_ca_file"


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (["--workers", "many"], {}, "--workers 'many'"),
        ([], {"MODELMILL_LOG_LEVEL": "loud"}, "must be one of debug, info, warning, error"),
        ([], {"MODELMILL_LEADER_ELECTION": "maybe"}, "must be true or false"),
        (["--workers", "0"], {}, "workers is 0: it must be more than 0"),
        (["--lease-duration", "2"], {}, "make it at least three times lease_renew_interval"),
        (["--report-cert-file", "a"], {}, "report_cert_file and report_key_file belong together"),
        (["--report-ca-file", "/nowhere"], {}, "No such file"),
    ],
)
def test_a_wrong_setting_ends_the_program_in_words(
    flags: list[str], environment: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load(flags, environment=environment)
    assert words in capsys.readouterr().err


def test_the_ca_is_read_for_planners_who_read_no_files(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("PEM")
    assert load(["--report-ca-file", str(tmp_path / "ca.pem")], environment={}).report_ca_pem == "PEM"
