"""History files in all their forms, pairing, and the recorder of a run."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path

import pytest

from jepsen.errors import HistoryError
from jepsen.history.history import History, read_history, write_history
from jepsen.history.op import Keyword, Op, OpType
from jepsen.history.recorder import Recorder
from tests.jepsen.register_histories import told

JEPSEN_EDN = """\
{:type :invoke, :f :read, :value nil, :time 3291485317, :process 0, :index 0}
{:type :info, :f :start-partition, :value nil, :time 3300000000, :process :nemesis, :index 1}
{:type :ok, :f :read, :value [3 nil], :time 3767733708, :process 0, :index 2}
{:type :invoke, :f :txn, :value [[:append 1 2] [:r 1 nil]], :time 4000000000, :process 1, :index 3}
{:type :info, :f :txn, :value [[:append 1 2] [:r 1 nil]], :time 5, :process 1, :error [:timeout nil], :x 1, :index 4}
"""


def _file(tmp_path: Path, text: str, name: str = "history.edn") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_reads_what_jepsen_writes(tmp_path: Path) -> None:
    history = read_history(_file(tmp_path, JEPSEN_EDN))
    assert [op.type for op in history] == ["invoke", "info", "ok", "invoke", "info"]
    assert history[2] == Op(2, OpType.OK, 0, "read", [3, None], 3767733708)
    assert history[1].process == "nemesis"
    assert not history[1].is_client
    assert history[3].value == [["append", 1, 2], ["r", 1, None]]
    assert isinstance(history[3].value[0][0], Keyword)
    assert history[4].error == "[:timeout nil]"
    assert history[4].extra == {"x": 1}
    assert history.nemesis()[0].index == 1
    assert [op.index for op in history.clients()] == [0, 2, 3, 4]


def test_one_vector_and_records_read_alike(tmp_path: Path) -> None:
    lines = read_history(_file(tmp_path, JEPSEN_EDN))
    vector = read_history(_file(tmp_path, f"[{JEPSEN_EDN}]", "vector.edn"))
    tagged = JEPSEN_EDN.replace("{:type", "#jepsen.history.Op{:type")
    assert lines == vector == read_history(_file(tmp_path, tagged, "records.edn"))


@pytest.mark.parametrize("name", ["out.edn", "out.jsonl"])
def test_written_histories_read_the_same(tmp_path: Path, name: str) -> None:
    history = read_history(_file(tmp_path, JEPSEN_EDN))
    write_history(tmp_path / name, history)
    assert read_history(tmp_path / name) == history
    assert len((tmp_path / name).read_text().splitlines()) == len(history)


def test_micro_operations_are_written_as_keywords(tmp_path: Path) -> None:
    write_history(tmp_path / "h.edn", [Op(0, OpType.OK, 0, "txn", [["append", "k", 1], ["r", "k", [1]]], 0)])
    assert '[[:append "k" 1] [:r "k" [1]]]' in (tmp_path / "h.edn").read_text()


def test_histories_without_index_or_time_are_numbered(tmp_path: Path) -> None:
    text = "{:process 4, :type :invoke, :f :write, :value 2}\n{:process 4, :type :ok, :f :write, :value 2}"
    assert [(op.index, op.time) for op in read_history(_file(tmp_path, text))] == [(0, 0), (1, 0)]
    mixed = "{:process 4, :type :invoke, :f :w, :index 7}\n{:process 4, :type :ok, :f :w}"
    assert [op.index for op in read_history(_file(tmp_path, mixed))] == [0, 1]


def test_reads_text_logs(tmp_path: Path) -> None:
    text = (
        "INFO  jepsen.util - 0\t:invoke\t:read\tnil\n"
        "INFO  jepsen.core - Running workers\n"
        'INFO  jepsen.util - :nemesis\t:info\t:start\t"cut off"\n'
        "1\t:invoke\t:cas\t[2 -3]\n"
        "INFO  jepsen.util - 0\t:ok\t:read\t[1 nil]\n"
        "1   :info   :cas    [2 -3]\t:timed-out\n"
    )
    history = read_history(_file(tmp_path, text, "jepsen.log"))
    assert [(op.process, op.type, op.f, op.value, op.error) for op in history] == [
        (0, "invoke", "read", None, None),
        ("nemesis", "info", "start", "cut off", None),
        (1, "invoke", "cas", [2, -3], None),
        (0, "ok", "read", [1, None], None),
        (1, "info", "cas", [2, -3], ":timed-out"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "{:type :invoke, :f :read, :process 0}\n{:type :done, :f :read, :process 0}",
            2,
            ":type is :done; expected :invoke",
        ),
        ("{:f :read, :process 0}", 1, ":type is missing"),
        ("[{:type :ok, :f :read, :process 0}\n7]", 2, "7 is no operation"),
        ("{:type :ok, :f 7, :process 0}", 1, ":f is 7"),
        ("{:type :ok, :f :read, :process 1.5}", 1, ":process is 1.5"),
        ('{:type :ok, :f :read, :process 0, :time "x"}', 1, ':time is "x"'),
        ("{:type :ok, :f :read, :process 0, :index nil}", 1, ":index is nil"),
        ("{:type :ok, :f :read, :process 0,\n :value [1 2}", 2, r"unexpected '}'; expected '\]'"),
    ],
)
def test_a_bad_file_is_told_with_line_and_expectation(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(HistoryError, match=said) as caught:
        read_history(path)
    assert (caught.value.path, caught.value.line) == (path, line)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_bad_json_missing_files_and_binary_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"h.json:2: .*expected one JSON object"):
        read_history(_file(tmp_path, '{"type":"ok","f":"read","process":0}\n{', "h.json"))
    with pytest.raises(HistoryError, match=r"nowhere.edn: cannot read: No such file"):
        read_history(tmp_path / "nowhere.edn")
    (tmp_path / "binary.edn").write_bytes(b"\xff\xfe")
    with pytest.raises(HistoryError, match="not UTF-8 at byte 0"):
        read_history(tmp_path / "binary.edn")


def test_pairs_in_order_of_invocation() -> None:
    history = told(
        "0 invoke read\n1 invoke write 3\n1 ok write 3\n0 fail read\n2 invoke write 4\n3 info read"
    )
    pairs = history.pairs()
    assert [(pair.invoke.process, pair.type) for pair in pairs] == [(0, "fail"), (1, "ok"), (2, "info")]
    assert pairs[2].completion is None
    assert pairs[1].completion is history[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "0 invoke read\n0 invoke write 1",
            "process 0 invokes write at index 1 while its read of index 0 is open",
        ),
        ("0 invoke read\n0 ok read\n0 ok read", "process 0 completes read at index 2 without an invocation"),
    ],
)
def test_a_process_has_one_operation_at_a_time(text: str, said: str) -> None:
    with pytest.raises(HistoryError, match=said):
        told(text).pairs()


def test_operations_survive_pickling() -> None:
    op = Op(1, OpType.INFO, 2, "read", [1], 5, error="x", extra={"a": 1})
    assert pickle.loads(pickle.dumps(op)) == op


def test_recorder_streams_what_it_returns(tmp_path: Path) -> None:
    path = tmp_path / "history.edn"
    with Recorder(path) as recorder:
        first = recorder.invoke(0, "write", [1, 2], node="n1")
        recorder.nemesis("kill", ["n1"])
        assert len(path.read_text().splitlines()) == 2  # there before the run ends
        assert recorder.complete(first, "ok").value == [1, 2]
        second = recorder.invoke(0, "read", [1, None])
        recorder.complete(second, OpType.OK, value=[1, 2])
        third = recorder.invoke(1, "read", [1, None])
        recorder.complete(third, OpType.INFO, value=None, error="timed out\nafter 5 s")
        history = recorder.history()
    assert read_history(path) == history
    assert [op.index for op in history] == list(range(7))
    assert [op.node for op in history[:3]] == ["n1", None, "n1"]
    assert [op.time for op in history] == sorted(op.time for op in history)
    assert history[6].value is None


def test_recorder_refuses_what_makes_no_history(tmp_path: Path) -> None:
    with Recorder(tmp_path / "history.edn") as recorder:
        op = recorder.invoke(0, "read")
        with pytest.raises(HistoryError, match="type invoke"):
            recorder.complete(op, OpType.INVOKE)
    with pytest.raises(HistoryError, match="after the recorder was closed"):
        recorder.complete(op, OpType.OK)


def test_recorder_takes_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "history.edn"

    def work(process: int) -> None:
        for number in range(50):
            recorder.complete(recorder.invoke(process, "add", number), OpType.OK)

    with Recorder(path) as recorder:
        threads = [threading.Thread(target=work, args=(process,)) for process in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    history = read_history(path)
    assert history == recorder.history()
    assert [op.index for op in history] == list(range(800))
    assert [op.time for op in history] == sorted(op.time for op in history)
    assert all(pair.type == "ok" for pair in history.pairs())


def test_ten_thousand_operations_are_read_in_seconds(tmp_path: Path) -> None:
    value = [["append", 3, 1], ["r", 3, list(range(20))]]
    ops = [
        Op(2 * number + half, kind, number % 10, "txn", value, number)
        for number in range(10_000)
        for half, kind in enumerate((OpType.INVOKE, OpType.OK))
    ]
    write_history(tmp_path / "large.edn", ops)
    started = time.monotonic()
    assert read_history(tmp_path / "large.edn") == History(ops)
    assert time.monotonic() - started < 30  # measured: under 1 s
