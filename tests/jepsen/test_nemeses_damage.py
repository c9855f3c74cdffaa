"""Nemeses that cost durable data, and mixed ones, on a cluster in memory: what counts as a violation, and mends."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jepsen.errors import SetupError
from jepsen.nemeses import NEMESES, NemesisError
from jepsen.nemeses.damage import (
    CorruptDatabase,
    CorruptJournal,
    Wipe,
    choose_database_byte,
    choose_journal_byte,
    flip_bit,
)
from jepsen.nemeses.known_rows import alter_row, text_of
from jepsen.nemeses.membership import MemberChange
from jepsen.nemeses.mixed import DURABLE, GROUPS, Mixed
from tests.jepsen.conftest import MakeCluster
from tests.jepsen.fake_nodes import GOOD, is_whole

SEEDS = range(12)


# -- damage


def test_damage_never_hits_more_than_a_minority_and_is_mended_as_an_operator_does(make: MakeCluster) -> None:
    for kind in (CorruptJournal, Wipe):
        for seed in SEEDS:
            cluster = make(5)
            nemesis = kind()
            value = nemesis.start(cluster, random.Random(seed))
            assert 1 <= len(value) <= 2
            assert all(found["exit"] == 3 for found in value.values())
            assert [node.name for node in cluster.nodes if not node.is_running] == list(value)
            cluster.events.clear()
            assert nemesis.stop(cluster) == dict.fromkeys(value, "replaced")
            wanted = [
                event
                for n in value
                for event in (f"remove {n}", f"kill {n}", f"wipe {n}", f"start {n}", f"add {n}")
            ]
            assert cluster.events == wanted


def test_no_copy_is_taken_from_a_cluster_that_lacks_one(make: MakeCluster) -> None:
    for kind in DURABLE:
        cluster = make(3)
        cluster.node("n2").kill()
        cluster.events.clear()
        nemesis = kind()
        with pytest.raises(SetupError, match="not healthy"):
            nemesis.start(cluster, random.Random(1))
        assert cluster.events == []
        nemesis.final(cluster)
        assert cluster.events == ["start n2"]


def test_a_node_that_serves_a_damaged_journal_is_a_violation(make: MakeCluster) -> None:
    cluster = make(3)
    for node in cluster.nodes:
        node.checks_journal = False
    nemesis = CorruptJournal(refusal_s=0.1)
    nemesis.start(cluster, random.Random(1))
    (text,) = nemesis.violations
    assert "started with a damaged journal" in text
    nemesis.final(cluster)
    assert is_whole(cluster)


def test_a_refusal_that_does_not_name_the_file_is_a_violation(make: MakeCluster) -> None:
    cluster = make(3)
    for node in cluster.nodes:
        node._refuse = lambda _text, refuse=node._refuse: refuse("something is wrong")
    nemesis = CorruptJournal()
    nemesis.start(cluster, random.Random(1))
    assert "without naming" in nemesis.violations[0]


def test_damage_of_a_database_that_nobody_notices_is_a_violation(make: MakeCluster) -> None:
    cluster = make(3)
    nemesis = CorruptDatabase(notice_s=20)
    value = nemesis.start(cluster, random.Random(1))
    assert nemesis.stop(cluster) == dict.fromkeys(value, "rebuilt")
    for node in cluster.nodes:
        node.finds_damage = False
        node.rebuilds = 0
    cluster._ticks += 100
    nemesis = CorruptDatabase(notice_s=0.2)
    (victim,) = nemesis.start(cluster, random.Random(1))
    cluster._ticks += 100
    assert nemesis.stop(cluster) == {victim: "unnoticed"}
    assert "was not noticed" in nemesis.violations[-1]
    assert cluster.node(victim).database.read_bytes() == cluster.content, "it was replaced"


def test_an_altered_row_that_is_answered_is_a_violation(make: MakeCluster) -> None:
    found: dict[bool, list[str]] = {}
    for finds_damage in (True, False):
        violations: list[str] = found.setdefault(finds_damage, [])
        for seed in SEEDS:
            cluster = make(3)
            for node in cluster.nodes:
                node.finds_damage = finds_damage
            nemesis = CorruptDatabase(notice_s=0, row_first=seed == 0)
            (done,) = nemesis.start(cluster, random.Random(seed)).values()
            if "row" in done:
                violations += nemesis.violations
                assert done["first-reads"] == ("right" if finds_damage else "wrong")
                assert nemesis.has_damaged_database
    assert found[True] == []
    assert len(found[False]) > len(SEEDS) / 4, "about every other damage is a row"
    assert all(
        "a linearizable read after the start answered damaged data: row" in text for text in found[False]
    )


def test_a_node_that_refuses_its_damaged_database_answers_nothing(make: MakeCluster) -> None:
    cluster = make(3)
    for node in cluster.nodes:
        node.start = lambda node=node: node._refuse("damaged")
    nemesis = CorruptDatabase()
    (done,) = nemesis.start(cluster, random.Random(1)).values()
    assert done["first-reads"] == "none"
    assert nemesis.violations == []


def test_a_row_is_altered_in_every_copy_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    path.write_bytes(b"no row of ours" * 100)
    assert alter_row(path, random.Random(1)) is None
    every = b"".join(text_of(number).encode() for number in range(64))
    path.write_bytes(every + every)
    number = alter_row(path, random.Random(1))
    assert number is not None
    content = path.read_bytes()
    assert text_of(number).encode() not in content
    assert content[: len(every)] == content[len(every) :]
    assert sum(a != b for a, b in zip(content, every, strict=False)) == 1


def test_a_wiped_node_that_takes_part_under_its_old_name_is_a_violation(make: MakeCluster) -> None:
    cluster = make(3)
    for node in cluster.nodes:
        node.knows_identity = False
    nemesis = Wipe(refusal_s=0.1)
    nemesis.start(cluster, random.Random(1))
    assert "empty folder" in nemesis.violations[0]


def test_a_mend_that_fails_is_tried_again(make: MakeCluster) -> None:
    for make_nemesis in (CorruptJournal, Wipe):
        cluster = make(3)
        nemesis = make_nemesis()
        nemesis.start(cluster, random.Random(1))
        cluster.refuses_members = 1
        with pytest.raises(NemesisError, match="could not be removed"):
            nemesis.stop(cluster)
        nemesis.final(cluster)
        assert is_whole(cluster)
    cluster = make(3)
    member = MemberChange()
    cluster.refuses_members = 1
    with pytest.raises(SetupError):
        member.start(cluster, random.Random(1))
    member.final(cluster)
    assert is_whole(cluster)


def test_where_damage_is_done(tmp_path: Path) -> None:
    rng = random.Random(1)
    with pytest.raises(NemesisError, match="no journal"):
        choose_journal_byte(tmp_path, rng)
    with pytest.raises(NemesisError, match="no database"):
        choose_database_byte(tmp_path, rng)
    (tmp_path / "journal").mkdir()
    segment = tmp_path / "journal" / "1.seg"
    segment.write_bytes(GOOD[:100] + bytes(1000))
    for _ in range(100):
        path, offset = choose_journal_byte(tmp_path, rng)
        assert path == segment
        assert offset < 52, "not in the zeros, nor in a mark at the end"
    bit = flip_bit(segment, 5, rng)
    assert segment.read_bytes()[5] == GOOD[5] ^ (1 << bit)
    assert segment.read_bytes()[:5] + segment.read_bytes()[6:] == GOOD[:5] + GOOD[6:100] + bytes(1000)
    with pytest.raises(NemesisError, match="no byte"):
        flip_bit(segment, 5000, rng)
    for generation in ("g9", "g10"):
        (tmp_path / "state" / generation).mkdir(parents=True)
        (tmp_path / "state" / generation / "app.db").write_bytes(bytes(4096))
    assert choose_database_byte(tmp_path, rng)[0].parent.name == "g10"


# -- mixed


def test_mixed_faults_are_different_each_time_and_cost_one_durable_copy_at_most(make: MakeCluster) -> None:
    durable = {kind().name for kind in DURABLE}
    groups = [{kind().name for kind in group} for group in GROUPS]
    assert durable.union(*groups) <= set(NEMESES)
    seen = set()
    for seed in range(300):
        chosen = [factory().name for factory in Mixed()._choose(random.Random(seed))]
        assert 2 <= len(chosen) <= 4
        assert len(durable & set(chosen)) <= 1
        assert all(len(group & set(chosen)) <= 1 for group in groups)
        assert not durable & set(chosen[1:]), "durable damage begins first and is mended last"
        seen |= set(chosen)
    assert seen == durable.union(*groups)


def test_mixed_passes_violations_on(make: MakeCluster) -> None:
    cluster = make(3)
    for node in cluster.nodes:
        node.log_path.write_text("")
        node._refuse = lambda _text, refuse=node._refuse: refuse("something is wrong")
    seed = next(seed for seed in range(200) if Mixed()._choose(random.Random(seed))[0] is CorruptJournal)
    nemesis = Mixed()
    nemesis.start(cluster, random.Random(seed))
    nemesis.final(cluster)
    assert is_whole(cluster)
    (text,) = nemesis.violations
    assert text.startswith("corrupt-journal: ")
