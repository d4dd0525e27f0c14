"""A run that is killed at any moment leaves no orphan and no lock, and the next one ends with the same bytes."""

import pytest

from tests.bench.bench_kills import finish, holdings, kill_at, orphans


@pytest.mark.slow
def test_three_kills_then_the_same_bytes(tmp_path):
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    for point, victim in (("splits of smoke", "command"), ("step 2/4", "child"), ("dev, forward", "command")):
        assert kill_at(broken, point, victim), f"the run never came to {point!r}"
        assert not orphans(broken)
    assert "cached" in finish(broken)
    finish(unbroken)
    assert holdings(broken) == holdings(unbroken)
