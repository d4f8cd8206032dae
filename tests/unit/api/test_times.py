"""Durations and timestamps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmill_operator.api.times import parse_timestamp, seconds, timestamp


@pytest.mark.parametrize(
    ("text", "length"), [("60s", 60), ("5m", 300), ("1h30m", 5400), ("5ms", 0.005), ("0s", 0), ("1m500ms", 60.5), ("90m", 5400)]
)
def test_a_duration_is_read_as_written(text: str, length: float) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "1.5h", "5 s", "5d", "5s later"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 1h30m"):
        seconds(text)


@given(st.integers(0, 999), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, secs: int, millis: int) -> None:
    assert seconds(f"{hours}h{minutes}m{secs}s{millis}ms") == round(hours * 3600 + minutes * 60 + secs + millis / 1000, 3)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_a_timestamp_survives_the_round_trip_to_the_second(moment: datetime) -> None:
    assert parse_timestamp(timestamp(moment)) == moment.replace(microsecond=0)


def test_a_timestamp_is_in_utc() -> None:
    assert timestamp(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == "2026-01-01T00:00:00Z"
