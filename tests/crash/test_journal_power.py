"""Power loss during every single change that the journal makes to its disk, also while it recovers (RF-2, 5, 8)."""

from __future__ import annotations

import copy

import pytest

from dqlite_py.errors import Error
from tests.support.faultdisk import FaultDisk, Loss, PowerLoss
from tests.support.journals import FOLDER, entries, open_journal
from tests.support.journalscript import Oracle, batch, put, run

pytestmark = [pytest.mark.rf("RF-2"), pytest.mark.rf("RF-5"), pytest.mark.rf("RF-8")]

LOSSES = [(loss, 0) for loss in Loss if loss is not Loss.TEAR] + [(Loss.TEAR, seed) for seed in range(4)]


def crashed_at(change: int) -> tuple[FaultDisk, Oracle] | None:
    """Run the script until the power goes during the n-th change; None when the script ends before."""
    disk, oracle = FaultDisk(FOLDER), Oracle()
    disk.power_fails_at = change
    try:
        run(disk, oracle)
    except PowerLoss:
        return disk, oracle
    return None


Crashes = list[tuple[int, FaultDisk, Oracle]]


@pytest.fixture(scope="module")
def crashes() -> Crashes:
    """A disk and its oracle for every change that the script makes."""
    found = []
    change = 1
    while crash := crashed_at(change):
        found.append((change, *crash))
        change += 1
    return found


def test_the_script_makes_many_changes(crashes: Crashes) -> None:
    assert len(crashes) > 150


@pytest.mark.parametrize(("loss", "seed"), LOSSES, ids=str)
def test_what_was_acknowledged_is_there(crashes: Crashes, loss: Loss, seed: int) -> None:
    for change, disk, oracle in crashes:
        found = disk.after_power_loss(loss, seed * 1000 + change)
        after = copy.deepcopy(oracle)
        journal = open_journal(found)
        state = after.check(journal)
        # What open has shown must survive the next power loss, even if all that is unsynced goes.
        again = open_journal(found.after_power_loss(Loss.DROP))
        assert after.check(again) == state
        put(
            batch(
                entries=entries(state.start + len(state.log) + 1, state.start + len(state.log) + 9, term=20)
            )
        )(again, after)
        again.close()
        assert again.failure is None


@pytest.mark.parametrize(
    ("loss", "seed"), [(Loss.DROP, 0), (Loss.KEEP, 0), (Loss.TEAR, 1), (Loss.TEAR, 2)], ids=str
)
def test_power_loss_during_recovery(crashes: Crashes, loss: Loss, seed: int) -> None:
    for change, disk, oracle in crashes[::4]:
        recovering = 1
        while True:
            found = disk.after_power_loss(loss, seed * 1000 + change)
            found.power_fails_at = recovering
            try:
                open_journal(found)
                break
            except PowerLoss:
                found = found.after_power_loss(loss, seed + recovering)
            except Error as error:
                raise AssertionError(f"change {change}, recovery change {recovering}") from error
            copy.deepcopy(oracle).check(open_journal(found))
            recovering += 1


def test_kill_before_any_change_then_power_loss(crashes: Crashes) -> None:
    """kill -9 loses nothing: the page cache stays. What the next process read from it must not be lost later."""
    for change, *_ in crashes:
        disk, oracle = FaultDisk(FOLDER), Oracle()
        disk.power_fails_at = change
        with pytest.raises(PowerLoss):
            run(disk, oracle)
        disk.after_kill()
        journal = open_journal(disk)
        state = oracle.check(journal)
        put(batch(entries=entries(journal.last_index + 1, journal.last_index + 1, term=20)))(journal, oracle)
        assert oracle.check(open_journal(disk.after_power_loss(Loss.DROP))) != state
