"""Network namespaces without names and without tools: system calls only. Main thread of the keeper, before its loop.

A namespace lives as long as a descriptor or a process of it: nothing can stay behind when the keeper is gone.
Without root a user namespace gives the rights, where the system allows it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from jepsen.errors import SetupError

CLONE_NEWNET: Final = 0x40000000
CLONE_NEWUSER: Final = 0x10000000
PR_SET_PDEATHSIG: Final = 1
TUN: Final = "/dev/net/tun"
# Large packets: the switch's work is by packet.
MTU: Final = 60_000
DEVICE: Final = b"peers0"
PREFIX_MASK: Final = "255.255.255.0"
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
_IFF_UP: Final = 1
# Loaded here: nothing may be looked up between fork and exec.
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Host:
    """A node's namespace: `netns` to enter it, `tun` to exchange its IP packets."""

    name: str
    address: str
    netns: int
    tun: int


def gain_rights() -> None:
    """Enter a first namespace of our own; raises SetupError that names the missing right."""
    if libc.unshare(CLONE_NEWNET) == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise SetupError(
            f"network namespaces need CAP_SYS_ADMIN (run as root), or user namespaces allowed: {reason}; "
            "without them use the loopback cluster"
        )
    try:
        for path, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{path}", "w") as file:
                file.write(text)
    except OSError as error:
        raise SetupError(
            f"the user namespace gives no rights: cannot write /proc/self/{path}: {error.strerror}; "
            "run with CAP_SYS_ADMIN (as root) or use the loopback cluster"
        ) from None


def make_host(name: str, address: str) -> Host:
    """A new namespace with `address`/24 on a TUN device; the keeper's thread stays in it. Raises SetupError."""
    _check(libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)", "CAP_SYS_ADMIN")
    netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        tun = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SetupError(
            f"cannot open {TUN}: {error.strerror}: it needs the kernel's tun driver and read and write permission; "
            "without it use the loopback cluster"
        ) from None
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", DEVICE, _IFF_TUN | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _set_address(control, _SIOCSIFADDR, DEVICE, address)
            _set_address(control, _SIOCSIFNETMASK, DEVICE, PREFIX_MASK)
            fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", DEVICE, MTU))
            for device in (DEVICE, b"lo"):
                fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", device, _IFF_UP))
    except OSError as error:
        needed = " (CAP_NET_ADMIN is missing)" if error.errno == errno.EPERM else ""
        raise SetupError(
            f"cannot set up the network of {name} at {address}: {error.strerror}{needed}; "
            "without it use the loopback cluster"
        ) from None
    return Host(name, address, netns, tun)


def enter(netns: int) -> None:
    """Move the calling thread into a namespace; between fork and exec only. Raises OSError."""
    if libc.setns(netns, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _set_address(control: socket.socket, request: int, device: bytes, address: str) -> None:
    where = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
    fcntl.ioctl(control, request, struct.pack("16s16s8x", device, where))


def _check(result: int, call: str, right: str) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise SetupError(f"{call}: {reason}: {right} is missing; without it use the loopback cluster")
