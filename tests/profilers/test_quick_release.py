"""The collector within a race: what was there before is left out, and is where it was afterwards."""

import gc

import pytest

from subopt.profilers.device import quick_release


@pytest.fixture
def thawed():
    """Nothing is frozen, as in a process of the command's own."""
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()


def is_frozen(thing):
    """Of the objects it looks at, the collector lists all but the frozen ones. Their number changes by itself."""
    return all(thing is not other for other in gc.get_objects())


def test_what_was_there_is_frozen_for_the_block_and_no_longer(thawed):
    before = []

    def fail_inside():
        with quick_release():
            assert is_frozen(before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert gc.get_freeze_count() == 0


def test_what_a_caller_froze_stays_frozen(thawed):
    before = []
    gc.freeze()
    after = []
    with quick_release():
        assert is_frozen(before)
        assert not is_frozen(after)
    assert is_frozen(before)
