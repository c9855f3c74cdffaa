"""`NodeClient`: a blocking client of one node's control port, for one thread.

Every call ends in one of three ways: a value, `Failed` (certainly not done) or `Unknown` (may have happened, or may
happen yet). A broken connection or a time-out AFTER the request's first byte was sent is Unknown; before, it is
Failed. After an Unknown caused by the line itself, the client is closed: a late answer must not be taken for the next
one's. Does not retry and does not look for the leader.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from jepsen.errors import JepsenError
from jepsen.server.protocol import ANSWER_BYTES_MAX, UNKNOWN, MalformedRequest, decode, encode

Params = Sequence[Any] | Mapping[str, Any]
Statement = tuple[str, Params]
Key = tuple[str, int]  # of a write: a client session in hex, and a sequence number
_CHUNK_BYTES: Final = 256 * 1024
# What a Unix socket's path may hold, with room for the final zero.
_UNIX_PATH_MAX: Final = 107
# The node gives up a little earlier than the client: its error says more than a time-out. It may answer late by half a
# second of a call that is in the log already.
_NODE_SHARE: Final = 0.9
_NODE_SHARE_MIN: Final = 0.4
_NODE_LATE_S: Final = 0.5


def _of_node(timeout_s: float) -> float:
    return max(timeout_s * _NODE_SHARE - _NODE_LATE_S, timeout_s * _NODE_SHARE_MIN)


class ClientError(JepsenError):
    """A request without a good answer. `name`: the node's exception class, or "Connection" or "Timeout"."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class Failed(ClientError):
    """Certainly not done."""


class Unknown(ClientError):
    """It may have happened, or may happen yet."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one statement. `columns` is None when it returns no rows; `rowcount` is -1 when nothing is counted; `token` is
    the connection's session token after it."""

    columns: list[str] | None
    rows: list[tuple[Any, ...]]
    rowcount: int
    lastrowid: int | None
    token: str | None = None


class NodeClient:
    """Connect to the Unix socket `path`; raises Failed when nobody answers there.

    Each call takes `timeout_s` at most.
    """

    def __init__(self, path: Path | str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._buffer = bytearray()
        self._socket: socket.socket | None = None
        try:
            self._socket = _connect(str(path), timeout_s)
        except OSError as error:
            raise Failed("Connection", f"cannot connect to {path}: {error}") from None

    # -- requests ---------------------------------------------------------------------------------------------

    def execute(self, sql: str, params: Params = ()) -> Result:
        """Run one statement; a write is durable on a majority when this returns."""
        return _result(self.request("execute", sql=sql, params=_params(params)))

    def unit(self, statements: Sequence[Statement], key: Key | None = None) -> list[Result]:
        """Run the statements all or nothing; one result each. A repetition under the same key changes nothing."""
        pairs = [[sql, _params(params)] for sql, params in statements]
        arguments = {"statements": pairs} if key is None else {"statements": pairs, "key": list(key)}
        return [_result(item) for item in self.request("unit", **arguments)]

    def new_key(self) -> Key:
        """A key for `unit` that was never used."""
        session, sequence = self.request("key")
        return str(session), int(sequence)

    def transaction(self, statements: Sequence[Statement], begin: str = "BEGIN IMMEDIATE") -> list[Result]:
        """Run the statements one by one inside a transaction. Only an answer to COMMIT that is lost is Unknown."""
        try:
            self.execute(begin)
            results = [self.execute(sql, params) for sql, params in statements]
        except Unknown as lost:
            self.close()  # with it the node drops the transaction
            raise Failed(lost.name, f"before COMMIT: {lost.message}") from None
        except Failed:
            self._roll_back()
            raise
        try:
            self.execute("COMMIT")
        except Failed:
            self._roll_back()
            raise
        return results

    def _roll_back(self) -> None:
        try:
            if not self.is_closed:
                self.execute("ROLLBACK")
        except Unknown:
            self.close()
        except Failed:
            pass  # there is none any more

    def query(
        self,
        sql: str,
        params: Params = (),
        level: str = "linearizable",
        token: str | None = None,
        max_staleness: float | None = None,
    ) -> Result:
        """Run one SELECT at a read level: "linearizable", "leader", "session" (from `token` on) or "stale"."""
        arguments: dict[str, Any] = {"sql": sql, "params": _params(params), "level": level}
        if token is not None:
            arguments["token"] = token
        if max_staleness is not None:
            arguments["max_staleness"] = max_staleness
        return _result(self.request("query", **arguments))

    def status(self) -> dict[str, Any]:
        """The node's own view: state, term, leader_id, indexes, members, databases, health."""
        answer: dict[str, Any] = self.request("status")
        return answer

    def members(self) -> list[dict[str, Any]]:
        """[{id, address, role, ...}] as this node sees them."""
        answer: list[dict[str, Any]] = self.request("members")
        return answer

    def remove(self, node_id: int) -> None:
        """Remove a member from the configuration, through the leader."""
        self.request("remove", id=node_id)

    def change(self, method: str, body: dict[str, Any]) -> None:
        """One of the node's methods for operators (server.handlers.CHANGES), with the client's time."""
        self.request("change", method=method, body=body)

    def transfer(self, target: int | None = None) -> int:
        """Only on the leader: hand over to `target` (default: the most caught-up voter); returns its id."""
        return int(self.request("transfer", target=target))

    def compact(self) -> int:
        """Take a snapshot and drop the log before it; returns its log index."""
        return int(self.request("compact"))

    def shutdown(self) -> None:
        """Let the process stop cleanly; returns when it has begun to."""
        self.request("shutdown")

    def request(self, name: str, **arguments: Any) -> Any:
        """Send one request and return its `ok`. Raises Failed or Unknown."""
        if self._socket is None:
            raise Failed("Connection", "the client is closed")
        deadline = time.monotonic() + self.timeout_s
        try:
            line = encode({"f": name, "timeout_s": _of_node(self.timeout_s), **arguments})
        except TypeError as error:
            raise Failed("Request", str(error)) from None
        try:
            self._socket.settimeout(self.timeout_s)
            self._socket.sendall(line)
            answer = decode(self._read_line(deadline))
        except TimeoutError:
            self.close()
            raise Unknown("Timeout", f"no answer to {name} within {self.timeout_s:g} s") from None
        except (OSError, MalformedRequest) as error:
            self.close()
            raise Unknown("Connection", f"no answer to {name}: {error}") from None
        except BaseException:
            self.close()  # an interrupted call: its answer may come yet
            raise
        if "ok" in answer:
            return answer["ok"]
        raise _error(answer)

    def _read_line(self, deadline: float) -> bytes:
        assert self._socket is not None
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > ANSWER_BYTES_MAX:
                raise OSError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            data = self._socket.recv(_CHUNK_BYTES)
            if not data:
                raise OSError("the node closed the connection")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    # -- life -------------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self._socket is None

    def close(self) -> None:
        """Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _connect(path: str, timeout_s: float) -> socket.socket:
    """A deep folder is reached through its descriptor: a Unix socket's path is short."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        if len(os.fsencode(path)) <= _UNIX_PATH_MAX:
            connection.connect(path)
        else:
            folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            finally:
                os.close(folder)
    except BaseException:
        connection.close()
        raise
    return connection


def _params(params: Params) -> Any:
    return {"named": dict(params)} if isinstance(params, Mapping) else list(params)


def _error(answer: Mapping[str, Any]) -> ClientError:
    error = answer.get("error")
    if not isinstance(error, dict):
        return Unknown("Malformed", f"the node answered {answer!r:.200}")
    kind = Unknown if error.get("outcome", UNKNOWN) == UNKNOWN else Failed
    return kind(str(error.get("class", "Error")), str(error.get("message", "")))


def _result(value: Any) -> Result:
    return Result(
        columns=value["columns"],
        rows=[tuple(_value(item) for item in row) for row in value["rows"]],
        rowcount=value["rowcount"],
        lastrowid=value["lastrowid"],
        token=value.get("token"),
    )


def _value(value: Any) -> Any:
    return bytes.fromhex(value["bytes"]) if isinstance(value, dict) else value
