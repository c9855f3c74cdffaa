"""pandas through the dialect: to_sql and read_sql."""

from __future__ import annotations

import datetime

import pytest
from sqlalchemy import Engine, text

pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")


def frame():  # type: ignore[no-untyped-def]
    return pandas.DataFrame(
        {
            "number": range(500),
            "half": [value / 2 for value in range(500)],
            "name": [f"row {value}" for value in range(499)] + [None],
            "moment": [
                datetime.datetime(2026, 1, 1) + datetime.timedelta(hours=value) for value in range(500)
            ],
        }
    )


def test_there_and_back(engine: Engine) -> None:
    written = frame()
    assert written.to_sql("frame", engine, index=False) == 500
    read = pandas.read_sql("SELECT * FROM frame", engine, parse_dates=["moment"])
    assert read["number"].tolist() == written["number"].tolist()
    assert read["half"].tolist() == written["half"].tolist()
    assert read["name"].tolist()[:-1] == written["name"].tolist()[:-1]
    assert pandas.isna(read["name"].iloc[-1])
    assert read["moment"].tolist() == written["moment"].tolist()
    assert len(pandas.read_sql_table("frame", engine)) == 500


@pytest.mark.parametrize("method", [None, "multi"])
def test_append_and_replace(engine: Engine, method: str | None) -> None:
    frame().to_sql("frame", engine, index=False, method=method, chunksize=50)
    frame().to_sql("frame", engine, index=False, if_exists="append", method=method, chunksize=50)
    assert pandas.read_sql("SELECT count(*) AS n FROM frame", engine)["n"].tolist() == [1000]
    frame().head(3).to_sql("frame", engine, if_exists="replace", index_label="place")
    assert pandas.read_sql_query(
        text("SELECT * FROM frame WHERE number > :n"), engine, params={"n": 0}
    ).shape == (2, 5)
    with pytest.raises(ValueError, match="already exists"):
        frame().to_sql("frame", engine)


def test_what_is_written_belongs_to_the_transaction(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        frame().to_sql("frame", connection, index=False)
        assert len(pandas.read_sql("SELECT * FROM frame", connection)) == 500
        transaction.rollback()
    with pytest.raises(Exception, match="no such table"):
        pandas.read_sql("SELECT * FROM frame", engine)


def test_chunks(engine: Engine) -> None:
    frame().to_sql("frame", engine, index=False)
    with engine.connect() as connection:
        chunks = pandas.read_sql("SELECT * FROM frame", connection, chunksize=120)
        assert [len(chunk) for chunk in chunks] == [120, 120, 120, 120, 20]
