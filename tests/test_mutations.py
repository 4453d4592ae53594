"""The faults of `mutations.py` can still be put in."""

import mutations


def test_every_old_text_stands_in_the_source_exactly_once():
    assert mutations.wrong() == []
    assert len(mutations.FAULTS) >= 100
    for fault in mutations.FAULTS:
        for name in fault.tests.split():
            assert (mutations.ROOT / "tests" / name).is_file(), name
