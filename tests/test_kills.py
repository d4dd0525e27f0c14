"""A run that is killed at any moment leaves no orphan and no lock, and the next one ends with the bytes of another home."""

import pytest

from tests.bench.bench_kills import finishes_without, holdings, kill_at, orphans
from tests.commands import Done
from tests.conftest import Smoke


@pytest.fixture(scope="module")
def unbroken(smoke: Smoke, rerun: Done) -> dict[str, set[str]]:
    """What a home holds after a run that nobody disturbed."""
    assert rerun.code == 0, rerun.err[-3000:]
    return holdings(smoke.home)


@pytest.mark.slow
def test_three_kills_then_the_same_bytes(tmp_path, unbroken):
    """Of the command, of a job, and of the process that forks the jobs, without which the last run itself ends well."""
    broken = tmp_path / "broken"
    for point, victim in (("splits of smoke", "command"), ("trainable parameters", "job")):
        assert kill_at(broken, point, victim), f"the run never came to {point!r}"
        assert not orphans(broken)
    assert finishes_without(broken, "gate of"), "nothing was killed"
    assert not orphans(broken)
    assert holdings(broken) == unbroken
