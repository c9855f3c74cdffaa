"""The VFS "dqlite-python": vfs.c and vfs_wal.c.

SQLite's unix VFS with three functions replaced: opening, and the two clocks. Only a WAL is wrapped (the real file is
behind the wrapper, in the same memory); every other file it opens is the unix VFS's own. Frames are not joined
here: that is a matter of speed only.

SQLite looks at `errno` after a failed call: the callbacks carry it through.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_void_p
from typing import Any, Final

import apsw

from dqlite_py.errors import InternalError
from dqlite_py.storage.python_engine.page_hash import Pages
from dqlite_py.storage.python_engine.sqlite_api import address_of, sqlite

VFS_NAME: Final = "dqlite-python"
_C_VFS_NAME: Final = b"dqlite"
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_UNIX_EPOCH_MS: Final = 210_866_760_000_000  # 1970-01-01 in milliseconds of the julian day number
_DAY_MS: Final = 86_400_000.0
_SQLITE_OPEN_WAL: Final = apsw.SQLITE_OPEN_WAL
_LOCALTIME_FAULT: Final = 18  # SQLITE_TESTCTRL_LOCALTIME_FAULT
_SYNC_NORMAL: Final = 2

_Open: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int), use_errno=True)
_Time: Final = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(c_double))
_TimeInt64: Final = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(c_int64))
_LocalTime: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
_FILE_METHODS: Final[dict[str, tuple[Any, ...]]] = {  # of struct sqlite3_io_methods, version 1
    "xClose": (),
    "xRead": (c_void_p, c_int, c_int64),
    "xWrite": (c_void_p, c_int, c_int64),
    "xTruncate": (c_int64,),
    "xSync": (c_int,),
    "xFileSize": (c_void_p,),
    "xLock": (c_int,),
    "xUnlock": (c_int,),
    "xCheckReservedLock": (c_void_p,),
    "xFileControl": (c_int, c_void_p),
    "xSectorSize": (),
    "xDeviceCharacteristics": (),
}
_FILE_TYPES: Final[dict[str, Any]] = {
    name: ctypes.CFUNCTYPE(c_int, c_void_p, *arguments, use_errno=True)
    for name, arguments in _FILE_METHODS.items()
}
_WRAPPER_BYTES: Final = 16  # of which sqlite3_file is the first 8


class _Vfs(ctypes.Structure):
    """struct sqlite3_vfs up to version 2."""

    _fields_ = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", c_void_p),
        ("xDelete", c_void_p),
        ("xAccess", c_void_p),
        ("xFullPathname", c_void_p),
        ("xDlOpen", c_void_p),
        ("xDlError", c_void_p),
        ("xDlSym", c_void_p),
        ("xDlClose", c_void_p),
        ("xRandomness", c_void_p),
        ("xSleep", c_void_p),
        ("xCurrentTime", c_void_p),
        ("xGetLastError", c_void_p),
        ("xCurrentTimeInt64", c_void_p),
    )


class _Methods(ctypes.Structure):
    """struct sqlite3_io_methods, version 1."""

    _fields_ = (("iVersion", c_int), *((name, c_void_p) for name in _FILE_METHODS))


def _call(file: int, method: str, *arguments: Any) -> int:
    """Call a method of an open file; an SQLite code."""
    methods = _Methods.from_address(c_void_p.from_address(file).value or 0)
    code: int = _FILE_TYPES[method](getattr(methods, method))(file, *arguments)
    return code


class Watch:
    """What the writer connection's WAL writes feed; owned by the engine, hung on the main database file."""

    def __init__(self) -> None:
        self.pages = Pages()
        self.wal_frames = 0  # in the WAL up to the last commit frame written
        self.wal_generation = 0  # counts WAL headers written: the WAL began anew
        self.refused = False  # a write that is not a frame came: the state hash cannot follow


# -- time -----------------------------------------------------------------------------------------------


class _Clock(threading.local):
    fixed_unix_ms: int | None = None


_clock: Final = _Clock()


def unix_ms(now_us: int) -> int:
    """As C divides: towards zero."""
    return now_us // 1000 if now_us >= 0 else -(-now_us // 1000)


def fix_time(unix_ms: int) -> None:
    """From now on this thread's SQLite sees a fixed clock and no 'localtime'."""
    _clock.fixed_unix_ms = unix_ms


def release_time() -> None:
    _clock.fixed_unix_ms = None


# -- WAL writes -----------------------------------------------------------------------------------------


class WalFile:
    """One open WAL of a connection of ours: with cache_spill off a transaction's frames are written once, in order.

    Anything else is refused with an I/O error, because the state hash could not follow it.
    """

    def __init__(self, main: int | None, real: int) -> None:
        self.main = main  # the database file it belongs to
        self._real = real
        methods = _Methods.from_address(c_void_p.from_address(real).value or 0)
        self._methods = {name: kind(getattr(methods, name)) for name, kind in _FILE_TYPES.items()}
        self.discard()

    def call(self, method: str, *arguments: Any) -> int:
        """Call a method of the real file; an SQLite code."""
        code: int = self._methods[method](self._real, *arguments)
        return code

    def discard(self) -> None:
        """Forget what an earlier, failed commit left behind."""
        self._frame_offset = -1  # of a frame whose header was written and whose page comes next
        self._frame_page = 0
        self._frame_commit_pages = 0
        self._next_frame_offset = 0  # within a transaction frames follow each other; 0: at its start

    def watched_write(self, watch: Watch, data: int, size: int, offset: int) -> int:
        page_size = watch.pages.page_size
        if offset == 0 and size == _WAL_HEADER_BYTES:
            self.discard()
            watch.wal_generation += 1
            watch.wal_frames = 0
            return self.call("xWrite", data, size, offset)
        if offset >= _WAL_HEADER_BYTES:
            is_start = (offset - _WAL_HEADER_BYTES) % (page_size + _FRAME_HEADER_BYTES) == 0
            if is_start and size == _FRAME_HEADER_BYTES and self._next_frame_offset in (0, offset):
                return self._write_header(data, offset)
            is_page = self._frame_offset >= 0 and offset == self._frame_offset + _FRAME_HEADER_BYTES
            if is_page and size == page_size:
                return self._write_page(watch, data, offset)
        watch.refused = True
        return apsw.SQLITE_IOERR_WRITE

    def _write_header(self, data: int, offset: int) -> int:
        header = ctypes.string_at(data, 8)
        self._frame_offset = offset
        self._frame_page = int.from_bytes(header[:4], "big")
        self._frame_commit_pages = int.from_bytes(header[4:], "big")
        return self.call("xWrite", data, _FRAME_HEADER_BYTES, offset)

    def _write_page(self, watch: Watch, data: int, offset: int) -> int:
        page_size = watch.pages.page_size
        self._frame_offset = -1
        self._next_frame_offset = offset + page_size
        # Hashed BEFORE the commit frame is written: the update after the commit cannot fail.
        watch.pages.note(self._frame_page, ctypes.string_at(data, page_size), self._frame_commit_pages)
        code = self.call("xWrite", data, page_size, offset)
        if code == apsw.SQLITE_OK and self._frame_commit_pages != 0:
            watch.wal_frames = (offset - _WAL_HEADER_BYTES) // (page_size + _FRAME_HEADER_BYTES) + 1
        return code


# -- the VFS --------------------------------------------------------------------------------------------


class _Shim:
    """The registered VFS and its open WAL files; one per process, never unregistered."""

    def __init__(self) -> None:
        self.base = sqlite.vfs_find(b"unix")
        if not self.base or _Vfs.from_address(self.base).iVersion < 2:
            raise InternalError("SQLite has no unix VFS")
        unix = _Vfs.from_address(self.base)
        self._open = _Open(unix.xOpen)
        self._time = _TimeInt64(unix.xCurrentTimeInt64)
        self._libc_localtime = ctypes.CDLL(None).localtime_r
        self._libc_localtime.argtypes = (c_void_p, c_void_p)
        self._libc_localtime.restype = c_void_p
        self.wals: dict[int, WalFile] = {}
        self.watches: dict[int, Watch] = {}
        # Held as long as SQLite may call them: for ever.
        self._callbacks = (
            _Open(self._on_open),
            _Time(self._on_time),
            _TimeInt64(self._on_time_int64),
            _LocalTime(self._on_local_time),
        )
        self._file_callbacks = {name: kind(self._method(name)) for name, kind in _FILE_TYPES.items()}
        self._wal_methods = _Methods(
            iVersion=1, **{name: address_of(call) for name, call in self._file_callbacks.items()}
        )
        on_open, on_time, on_time_int64, self.local_time = map(address_of, self._callbacks)
        self.vfs = _Vfs.from_buffer_copy(unix)
        self.vfs.iVersion = 2
        self.vfs.szOsFile = _WRAPPER_BYTES + unix.szOsFile
        self.vfs.pNext = None
        self.vfs.zName = VFS_NAME.encode()
        self.vfs.xOpen, self.vfs.xCurrentTime, self.vfs.xCurrentTimeInt64 = on_open, on_time, on_time_int64

    def register(self) -> None:
        code = sqlite.vfs_register(ctypes.addressof(self.vfs), 0)
        if code != apsw.SQLITE_OK:
            raise InternalError("the VFS could not be registered", code=code)

    # -- called by SQLite: an exception must come out as an error ---------------------------------------

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: Any) -> int:
        try:
            if not flags & _SQLITE_OPEN_WAL:
                code: int = self._open(self.base, name, file, flags, out_flags)
                return code
            return self._open_wal(name, file, flags, out_flags)
        except BaseException:  # noqa: BLE001 - see above
            return apsw.SQLITE_CANTOPEN

    def _open_wal(self, name: int | None, file: int, flags: int, out_flags: Any) -> int:
        real = file + _WRAPPER_BYTES
        ctypes.memset(file, 0, self.vfs.szOsFile)
        code: int = self._open(self.base, name, real, flags, out_flags)
        if c_void_p.from_address(real).value:
            self.wals[file] = WalFile(sqlite.database_file_object(name), real)
            c_void_p.from_address(file).value = ctypes.addressof(self._wal_methods)
        return code

    def _method(self, name: str) -> Callable[..., int]:
        """What SQLite calls for a method of a WAL."""

        def call(file: int, *arguments: Any) -> int:
            try:
                wal = self.wals[file]
                if name == "xClose":
                    del self.wals[file]
                elif name == "xWrite" and wal.main in self.watches:
                    return wal.watched_write(self.watches[wal.main], *arguments)
                return wal.call(name, *arguments)
            except MemoryError:
                return apsw.SQLITE_IOERR_NOMEM
            except BaseException:  # noqa: BLE001 - see above
                return apsw.SQLITE_IOERR_WRITE

        return call

    def _on_time_int64(self, vfs: int, julian_ms: Any) -> int:
        try:
            fixed = _clock.fixed_unix_ms
            if fixed is None:
                code: int = self._time(self.base, julian_ms)
                return code
            julian_ms[0] = fixed + _UNIX_EPOCH_MS
        except BaseException:  # noqa: BLE001 - see above
            return apsw.SQLITE_ERROR
        return apsw.SQLITE_OK

    def _on_time(self, vfs: int, julian_day: Any) -> int:
        found = c_int64(0)
        code = self._on_time_int64(vfs, ctypes.pointer(found))
        julian_day[0] = found.value / _DAY_MS
        return code

    def _on_local_time(self, seconds: int, fields: int) -> int:
        """Process-wide in SQLite: all other threads and connections see the real local time."""
        try:
            if _clock.fixed_unix_ms is not None or self._c_clock_is_fixed():
                return 1  # SQL error "local time unavailable"
            return int(self._libc_localtime(seconds, fields) is None)
        except BaseException:  # noqa: BLE001 - see above
            return 1

    def _c_clock_is_fixed(self) -> bool:
        """A process that runs both engines (the tests) has one hook for both: this one."""
        address = sqlite.vfs_find(_C_VFS_NAME)
        if not address:
            return False
        theirs, real = c_int64(0), c_int64(0)
        _TimeInt64(_Vfs.from_address(address).xCurrentTimeInt64)(address, ctypes.pointer(theirs))
        self._time(self.base, ctypes.pointer(real))
        return abs(theirs.value - real.value) > 1_000


_shims: Final[list[_Shim]] = []


def register() -> None:
    """Register the VFS; later calls only see to the hook for 'localtime', which has one place in the process."""
    if not _shims:
        shim = _Shim()
        shim.register()
        _shims.append(shim)
    sqlite.test_control(_LOCALTIME_FAULT, 2, _shims[0].local_time)


# -- from the engine ------------------------------------------------------------------------------------


def _file(db: int, operation: int) -> int | None:
    """The open file of a connection of this VFS, else None."""
    vfs, file = c_void_p(), c_void_p()
    if (
        sqlite.file_control(db, b"main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(vfs))
        != apsw.SQLITE_OK
    ):
        return None
    if not _shims or vfs.value != ctypes.addressof(_shims[0].vfs):
        return None
    if sqlite.file_control(db, b"main", operation, ctypes.addressof(file)) != apsw.SQLITE_OK:
        return None
    return file.value if file.value and c_void_p.from_address(file.value).value else None


def set_watch(db: int, watch: Watch | None) -> bool:
    """Watch the WAL of `db`, or end watching with None. False: another VFS."""
    file = _file(db, apsw.SQLITE_FCNTL_FILE_POINTER)
    if file is None:
        return False
    if watch is None:
        _shims[0].watches.pop(file, None)
    else:
        _shims[0].watches[file] = watch
    return True


def begin(db: int) -> None:
    """Before each entry."""
    file = _file(db, apsw.SQLITE_FCNTL_JOURNAL_POINTER)
    wal = _shims[0].wals.get(file) if file is not None else None
    if wal is not None:
        wal.discard()


def file_size(db: int, is_wal: bool) -> tuple[int, int]:
    """(SQLite code, bytes)."""
    file = _file(db, _pointer(is_wal))
    if file is None:
        return apsw.SQLITE_NOTFOUND, 0
    size = c_int64(0)
    code = _call(file, "xFileSize", ctypes.addressof(size))
    return code, size.value


def file_read(db: int, is_wal: bool, offset: int, size: int) -> tuple[int, bytes]:
    """(SQLite code, bytes); a short read is an error."""
    file = _file(db, _pointer(is_wal))
    if file is None:
        return apsw.SQLITE_NOTFOUND, b""
    target = ctypes.create_string_buffer(size)
    return _call(file, "xRead", ctypes.addressof(target), size, offset), target.raw


def file_sync(db: int, is_wal: bool) -> int:
    """An SQLite code."""
    file = _file(db, _pointer(is_wal))
    return apsw.SQLITE_NOTFOUND if file is None else _call(file, "xSync", _SYNC_NORMAL)


def _pointer(is_wal: bool) -> int:
    return apsw.SQLITE_FCNTL_JOURNAL_POINTER if is_wal else apsw.SQLITE_FCNTL_FILE_POINTER
