"""URLs of the dialect: which members, which database, which options; and what is said about a wrong one."""

from __future__ import annotations

import pytest
import sqlalchemy
from sqlalchemy.exc import ArgumentError

from dqlite_py.sqlalchemy import create_engine, make_url
from dqlite_py.sqlalchemy.urls import Target, target_of


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("dqlitepy://h1:9001/app", Target(("h1:9001",), "app", {})),
        ("dqlitepy+aio://h1:9001/app", Target(("h1:9001",), "app", {})),
        ("dqlitepy:///app", Target((), "app", {})),
        (
            "dqlitepy://h1:9001/app?host=h2:9002&host=h3:9003",
            Target(("h1:9001", "h2:9002", "h3:9003"), "app", {}),
        ),
        ("dqlitepy://h1:9001/app?host=h2:9002", Target(("h1:9001", "h2:9002"), "app", {})),
        ("dqlitepy://h1,h2,h3:9001/app", Target(("h1:9001", "h2:9001", "h3:9001"), "app", {})),
        ("dqlitepy://[::1]:9001/app", Target(("[::1]:9001",), "app", {})),
        (
            "dqlitepy:///app?timeout=2.5&busy_timeout=1&exactly_once=no&other=x",
            Target((), "app", {"timeout": 2.5, "busy_timeout": 1.0, "exactly_once": False, "other": "x"}),
        ),
    ],
)
def test_sqlalchemys_own_form(text: str, target: Target) -> None:
    assert target_of(sqlalchemy.make_url(text)) == target


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("dqlitepy://h1:9001,h2:9002/app", ("h1:9001", "h2:9002")),
        ("dqlitepy+aio://h1:9001,h2:9002,h3:9003/app?timeout=3", ("h1:9001", "h2:9002", "h3:9003")),
        ("dqlitepy://[::1]:9001,[::2]:9002/app", ("[::1]:9001", "[::2]:9002")),
        ("dqlitepy://h1:9001,h2:9002/app?host=h3:9003", ("h1:9001", "h2:9002", "h3:9003")),
        ("dqlitepy://h1:9001/app", ("h1:9001",)),
    ],
)
def test_a_list_of_members(text: str, addresses: tuple[str, ...]) -> None:
    url = make_url(text)
    assert target_of(url).addresses == addresses
    assert target_of(url).database == "app"
    assert target_of(sqlalchemy.make_url(str(url))) == target_of(url), (
        "the text of the URL is SQLAlchemy's own form"
    )
    assert make_url(url) is url


def test_other_dialects_are_left_alone() -> None:
    assert make_url("sqlite:///file.db") == sqlalchemy.make_url("sqlite:///file.db")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dqlitepy://h1:9001", "database name '' is not allowed"),
        ("dqlitepy://h1:9001/a/b", "is not allowed"),
        ("dqlitepy://h1:9001/_dqlite_x", "is not allowed"),
        ("dqlitepy://h1/app", "'h1' in the URL has no port"),
        ("dqlitepy://h1:9001/app?host=h2", "'h2' is not an address"),
        ("dqlitepy://h1:9001/app?host=h2:0", "'h2:0' is an address to listen on"),
        ("dqlitepy://me:secret@h1:9001/app", "no user and password"),
        ("dqlitepy:///app?timeout=soon", "option timeout='soon'"),
        ("dqlitepy:///app?exactly_once=perhaps", "option exactly_once='perhaps'"),
        ("dqlitepy:///app?timeout=1&timeout=2", "'timeout' stands more than once"),
    ],
)
def test_bad_urls(text: str, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        target_of(sqlalchemy.make_url(text))
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["dqlitepy://h1:9001,h2/app", "dqlitepy://h1:x,h2:1/app"])
def test_bad_lists(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not an address"):
        target_of(make_url(text))


def test_a_url_without_members_and_without_a_node() -> None:
    engine = create_engine("dqlitepy:///app")
    with pytest.raises(ArgumentError, match=r"engine_for\(node, \"app\"\)"):
        engine.connect()


@pytest.mark.parametrize("option", ["begin_mode=SOON", "read_level=old"])
def test_bad_settings_of_the_dialect(option: str) -> None:
    with pytest.raises(ArgumentError, match=r"SOON|old"):
        create_engine(f"dqlitepy:///app?{option}")
