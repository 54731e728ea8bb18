"""What `subopt.profilers` gives by name, imported when it is asked for."""

import pytest

from subopt import profilers


@pytest.mark.parametrize("name", profilers.__all__)
def test_a_name_is_what_it_says(name):
    assert getattr(profilers, name).__name__ == name


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'profile_run'"):
        profilers.profile_run  # noqa: B018
