"""Sizes and durations as people write them, and the family of errors a user can cause."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subopt import errors, units

UNIT_BYTES = {
    "": 2**30,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
    "T": 2**40,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


@pytest.mark.parametrize(("unit", "factor"), UNIT_BYTES.items())
def test_a_size_is_its_number_times_its_unit(unit: str, factor: int) -> None:
    assert units.parse_size(f"24{unit}") == 24 * factor
    assert units.parse_size(f" 1.5 {unit.lower()} ") == 3 * factor // 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "0",
        "0G",
        "0.0GiB",
        "-1G",
        "24X",
        "24 GiBs",
        "1e3",
        "1,5G",
        "nan",
        "24B",
        "auto",
        "9" * 400,
        "9e9T",
        "0.0001K",
        "99999999T",
    ],
)
def test_what_is_not_a_size_is_a_usage_error_that_says_how_to_write_one(text: str) -> None:
    with pytest.raises(
        errors.UsageError, match=re.escape(f"'{text}' is not a memory size")
    ) as caught:
        units.parse_size(text)
    assert caught.value.hint is not None
    assert "24GiB" in caught.value.hint


@given(st.integers(1, 2**20), st.sampled_from(sorted(UNIT_BYTES)))
def test_parsing_is_exact_for_whole_numbers(number: int, unit: str) -> None:
    assert units.parse_size(f"{number}{unit}") == number * UNIT_BYTES[unit]


@given(st.integers(2**10, 2**49))
def test_a_formatted_size_parses_back_to_three_digits(count: int) -> None:
    assert units.parse_size(units.format_bytes(count)) == pytest.approx(count, rel=0.006)


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_a_larger_size_never_reads_as_a_smaller_one(first: int, second: int) -> None:
    small, large = sorted([first, second])
    assert amount(units.format_bytes(small)) <= amount(units.format_bytes(large))


def amount(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, **UNIT_BYTES}[unit]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (-(2**20), "-1 MiB"),
        (1_546_188_227, "1.44 GiB"),
        (24 * 2**30, "24 GiB"),
        (999 * 2**30, "999 GiB"),
        (2**40, "1 TiB"),
        (2**60, "1048576 TiB"),
    ],
)
def test_bytes_are_written_with_a_binary_unit(count: int | None, text: str) -> None:
    assert units.format_bytes(count) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (0.42, "0.42 ms"),
        (9.96, "10 ms"),
        (310.4, "310 ms"),
        (999.4, "999 ms"),
        (999.6, "1.0 s"),
        (4_100, "4.1 s"),
        (99_400, "99.4 s"),
        (100_000, "2 min"),
        (3_570_000, "1 h 00 min"),
        (7_500_000, "2 h 05 min"),
    ],
)
def test_durations_are_written_in_the_unit_people_use(
    milliseconds: float | None, text: str
) -> None:
    assert units.format_ms(milliseconds) == text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError, 2),
        (errors.TargetError, 2),
        (errors.PreflightError, 2),
        (errors.FileFormatError, 2),
        (errors.OptionError, 2),
        (errors.UserCodeError, 1),
        (errors.DoesNotFitError, 3),
        (errors.NonFiniteLossError, 4),
        (errors.DiskFullError, 1),
    ],
)
def test_an_error_carries_a_message_a_hint_and_an_exit_status(
    error: type[errors.SuboptError], status: int
) -> None:
    caught = error("what is wrong", "what to do")
    assert isinstance(caught, errors.SuboptError)
    assert (str(caught), caught.message, caught.hint) == (
        "what is wrong",
        "what is wrong",
        "what to do",
    )
    assert caught.exit_status == status
    assert error("what is wrong").hint is None


def test_every_error_of_the_family_has_its_status_listed_above() -> None:
    family = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.SuboptError)
    }
    assert len(family - {errors.SuboptError}) == 9


def test_a_wrong_option_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="no such option"):
        raise errors.OptionError("no such option")


@pytest.mark.parametrize(
    ("word", "text"),
    [("galor", "; did you mean 'galore'?"), ("adadiga", "; did you mean 'adadiag'?"), ("zzz", "")],
)
def test_the_nearest_known_word_is_suggested(word: str, text: str) -> None:
    assert errors.suggestion(word, ["adamw", "galore", "adadiag"]) == text
