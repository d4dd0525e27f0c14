"""A run that is killed at any moment leaves no orphan and no lock, and the next one ends with the bytes of another home."""

import pytest

from tests.bench.bench_kills import finish, finishes_without, holdings, kill_at, orphans
from tests.commands import Done
from tests.conftest import Smoke


@pytest.fixture(scope="module")
def unbroken(smoke: Smoke, rerun: Done) -> dict[str, set[str]]:
    """What a home holds after a run that nobody disturbed."""
    assert rerun.code == 0, rerun.err[-3000:]
    return holdings(smoke.home)


@pytest.mark.slow
def test_three_kills_then_the_same_bytes(tmp_path, unbroken):
    broken = tmp_path / "broken"
    for point, victim in (
        ("splits of smoke", "command"),
        ("trainable parameters", "job"),
        ("dev, forward", "command"),
    ):
        assert kill_at(broken, point, victim), f"the run never came to {point!r}"
        assert not orphans(broken)
    assert "cached" in finish(broken)
    assert holdings(broken) == unbroken


@pytest.mark.slow
def test_a_run_whose_forking_process_is_killed_ends_with_the_same_bytes(tmp_path, unbroken):
    home = tmp_path / "home"
    assert finishes_without(home, "tiny base"), "nothing was killed"
    assert not orphans(home)
    assert holdings(home) == unbroken
