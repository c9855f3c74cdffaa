"""Automatic roles, example by example. A member is written as `id role marks`, see `member`."""

from __future__ import annotations

import pytest

from dqlite_py.errors import InterfaceError
from dqlite_py.model import NodeId, Role
from dqlite_py.raft.roles import Action, MemberState, Presence, Wanted, next_change, wanted_voters

ROLES = {"v": Role.VOTER, "s": Role.STANDBY, "p": Role.SPARE}
THERE = {"up": Presence.UP, "back": Presence.BACK, "away": Presence.AWAY, "gone": Presence.GONE}


def member(text: str) -> MemberState:
    """`3v gone w5 d2`: voter 3 is gone, weight 5, domain 2; also `unfit`, `behind`, `leaving`."""
    name, *marks = text.split()
    numbers = {mark[0]: int(mark[1:]) for mark in marks if mark[1:].isdigit()}
    return MemberState(
        NodeId(int(name[:-1])),
        ROLES[name[-1]],
        next((THERE[mark] for mark in marks if mark in THERE), Presence.UP),
        is_fit="unfit" not in marks,
        is_caught_up="behind" not in marks,
        is_leaving="leaving" in marks,
        weight=numbers.get("w", 0),
        domain=numbers.get("d", 0),
    )


def members(text: str) -> list[MemberState]:
    return [member(part) for part in text.split(",")]


def shown(text: str, wanted: Wanted) -> str:
    """The change as `id role`, `transfer id` or `-`; member 1 leads."""
    change = next_change(members(text), NodeId(1), wanted)
    if change.action is Action.NOTHING:
        return "-"
    if change.role is None:
        return f"transfer {change.member}"
    return f"{change.member} {change.role.name.lower()}"


# What the leader, member 1, sees; wanted voters and stand-bys; what it does.
EXAMPLES = [
    # A cluster grows.
    ("1v", 3, 3, "-"),
    ("1v, 2s behind", 3, 3, "-"),
    ("1v, 2s", 3, 3, "2 voter"),
    ("1v, 2p", 3, 3, "2 standby"),
    ("1v, 2v, 3s", 3, 3, "3 voter"),
    ("1v, 2v, 3v, 4p", 3, 3, "4 standby"),
    ("1v, 2v, 3v, 4s, 5s, 6s, 7s", 3, 3, "7 spare"),
    ("1v, 2v, 3v, 4s, 5s, 6s, 7p", 3, 3, "-"),
    # No even number of voters above two: the fourth is of more use as a stand-by.
    ("1v, 2v, 3v, 4s", 5, 3, "-"),
    ("1v, 2v, 3v, 4v", 5, 3, "4 standby"),
    ("1v, 2v, 3v, 4v, 5s back", 5, 3, "-"),
    ("1v, 2v, 3v, 4v, 5s unfit", 5, 3, "4 standby"),
    # One voter is enough where that is wanted.
    ("1v, 2v", 1, 1, "2 standby"),
    # A voter dies: the lightest caught-up stand-by, then a spare by way of stand-by; then the dead one loses its vote.
    ("1v, 2v, 3v away, 4s", 3, 1, "-"),
    ("1v, 2v, 3v gone", 3, 3, "-"),
    ("1v, 2v, 3v gone, 4s w2, 5s w1, 6p", 3, 2, "5 voter"),
    ("1v, 2v, 3v gone, 4s behind, 5s w9, 6p", 3, 2, "5 voter"),
    ("1v, 2v, 3v gone, 4s away, 5p w1, 6p", 3, 1, "6 standby"),
    ("1v, 2v, 3v gone, 4s behind, 5p", 3, 1, "-"),
    ("1v, 2v, 3v gone, 4s unfit", 3, 1, "-"),
    ("1v, 2v, 3v gone, 4v", 3, 1, "3 spare"),
    ("1v, 2v, 3p, 4v", 3, 1, "3 standby"),
    # Of too many the one that is away, not who replaced it: the next leader knows neither of them for long.
    ("1v, 2v away, 3v, 4v", 3, 0, "2 standby"),
    ("1v, 2v away, 3v back, 4v back", 3, 0, "2 standby"),
    ("1v d1, 2v d1, 3v d2, 4v away d3", 3, 0, "4 standby"),
    # ... and while nobody has been there for long none, but who is leaving.
    ("1v, 2v back, 3v back, 4v back", 3, 0, "-"),
    ("1v, 2v, 3v back, 4v", 3, 0, "-"),
    ("1v, 2v back leaving, 3v back, 4v back", 3, 0, "2 spare"),
    # A repair that waits keeps the stand-by that it waits for, though it is one too many.
    ("1v, 2v, 3v gone, 4s behind", 3, 0, "-"),
    ("1v, 2v, 3v, 4s behind", 3, 0, "4 spare"),
    # ... and nothing is spread meanwhile.
    ("1v d1, 2v d1, 3s behind d1, 4p d2", 3, 1, "-"),
    ("1v, 2v, 3v, 4s behind, 5p", 5, 1, "5 standby"),
    # Failure domains: an empty one first, then the lightest; crowded ones give a vote back.
    ("1v d1, 2v d2, 3v gone d3, 4s d1, 5s w9 d3", 3, 2, "5 voter"),
    ("1v d1, 2v d1, 3v d2, 4s w9 d3", 3, 1, "4 voter"),
    ("1v d1, 2v d1, 3v d2, 4v w9 d3", 3, 1, "2 standby"),
    ("1v w9 d1, 2v d1, 3v d2, 4v d3", 3, 1, "2 standby"),
    ("1v d1, 2v d1, 3v d2, 4p d3", 3, 0, "4 standby"),
    ("1v d1, 2v d1, 3v d2, 4s behind d3", 3, 0, "-"),
    ("1v d1, 2v d1, 3v d2, 4s d2", 3, 1, "-"),
    ("1v d1, 2v d1, 3v away d2, 4s d3", 3, 1, "-"),
    # Stand-bys spread over the domains, too; of equal ones, where fewer voters are.
    ("1v d1, 2v d2, 3v d3, 4s d1, 5s d1, 6p d2", 3, 2, "6 standby"),
    ("1v d1, 2v d2, 3v d3, 4s d1, 5p d4", 3, 1, "5 standby"),
    ("1v d1, 2v d2, 3v d3, 4s d1, 5s d4", 3, 1, "4 spare"),
    ("1v d1, 2v d2, 3v d3, 4s d1, 5p d2", 3, 1, "-"),
    # Weight decides between equals and moves nobody.
    ("1v, 2v w9, 3v w9, 4s", 3, 1, "-"),
    ("1v, 2v w9, 3v, 4v", 3, 1, "2 standby"),
    # Too many voters: the gone, the leaving and the unfit first; never the leader, never below the quorum.
    ("1v w9, 2v, 3v", 1, 2, "3 standby"),
    ("1v, 2v unfit, 3v w9, 4v", 3, 1, "2 standby"),
    ("1v, 2v away, 3v", 1, 2, "2 standby"),
    ("1v, 2v, 3v away, 4v, 5v gone", 3, 2, "5 spare"),
    # A leaving node hands over: its replacement first, then leadership, then its vote.
    ("1v leaving, 2v, 3v, 4s", 3, 1, "4 voter"),
    ("1v leaving, 2v w2, 3v w1, 4v w3", 3, 1, "transfer 3"),
    ("1v, 2v, 3v leaving, 4v", 3, 1, "3 spare"),
    ("1v, 2v, 3v leaving", 3, 1, "-"),
    # Two voters, and nobody to take the vote over: the other goes on alone.
    ("1v, 2v leaving", 3, 1, "2 spare"),
    ("1v leaving, 2v", 3, 1, "transfer 2"),
    ("1v leaving, 2s", 3, 1, "2 voter"),
    ("1v, 2s leaving", 3, 1, "-"),
    ("1v leaving, 2v w9, 3v back", 3, 1, "transfer 2"),
    ("1v leaving, 2v leaving, 3v w9", 3, 1, "transfer 3"),
    ("1v leaving, 2v behind", 1, 1, "-"),
    ("1v leaving", 1, 1, "-"),
    ("1v, 2v, 3v, 4s leaving, 5p", 3, 1, "5 standby"),
    ("1v unfit, 2v, 3v", 3, 0, "transfer 2"),
    # Without a majority nothing can be committed.
    ("1v, 2v gone, 3v gone, 4s", 3, 1, "-"),
    ("1v, 2v away", 3, 1, "-"),
]


@pytest.mark.parametrize(("seen", "voters", "standbys", "expected"), EXAMPLES)
def test_examples(seen: str, voters: int, standbys: int, expected: str) -> None:
    assert shown(seen, Wanted(voters, standbys)) == expected


@pytest.mark.parametrize(
    ("seen", "voters", "expected"),
    [
        ("1v", 3, 1),
        ("1v, 2s", 3, 2),
        ("1v, 2s, 3p", 3, 3),
        ("1v, 2s, 3p, 4p", 5, 3),
        ("1v, 2s, 3p, 4p, 5p", 5, 5),
        ("1v, 2v, 3v, 4v, 5s away", 5, 5),
        ("1v, 2v, 3v, 4v, 5s gone", 5, 3),
        ("1v, 2v, 3v, 4v gone, 5v gone", 5, 5),
        ("1v, 2v, 3v, 4v, 5s leaving", 5, 3),
    ],
)
def test_how_many_voters_there_are_to_be(seen: str, voters: int, expected: int) -> None:
    assert wanted_voters(members(seen), Wanted(voters)) == expected


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ("1v, 2v, 3v gone d7, 4s d2 w3", ["voter 3 is gone", "standby 4 of domain 2, weight 3"]),
        ("1v leaving, 2v, 3v, 4v", ["leader 1 is leaving"]),
        ("1v, 2v, 3v, 4v gone", ["4 voters are more than 3", "gone"]),
        ("1v, 2s behind", ["waiting for stand-by 2 to catch up"]),
        ("1v, 2v, 3v gone", ["2 of 3 wanted voters"]),
        ("1v, 2v away", ["no majority of the voters is reachable"]),
        ("1v d1, 2v d1, 3v d2, 4s d3", ["domain 1 has 2 voters, domain 3 has 0"]),
        ("1v, 2v, 3v", ["roles are as wanted"]),
    ],
)
def test_the_reason_says_what_an_operator_asks(seen: str, words: list[str]) -> None:
    reason = next_change(members(seen), NodeId(1), Wanted(3, 1)).reason
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize(
    ("seen", "leader"), [("1v, 1v", 1), ("1v, 2s", 2), ("1v, 2v", 3)], ids=["twice", "no voter", "unknown"]
)
def test_what_is_no_cluster_is_refused(seen: str, leader: int) -> None:
    with pytest.raises(InterfaceError):
        next_change(members(seen), NodeId(leader), Wanted())


@pytest.mark.parametrize(("voters", "standbys"), [(0, 0), (2, 0), (4, 3), (-1, 0), (3, -1)])
def test_numbers_that_make_no_sense_are_refused(voters: int, standbys: int) -> None:
    with pytest.raises(InterfaceError):
        Wanted(voters, standbys)
