"""Offloads of a network device, through the SIOCETHTOOL ioctl (linux/ethtool.h, netdevice(7)).

The userspace datapath reads frames from a device before anybody filled in checksums or cut up large segments, and
sends them on as they are. So on that datapath pods must send finished frames, and the underlay must not glue
received ones together.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
ETHTOOL_GLINK = 0x0A
ETHTOOL_STXCSUM = 0x17
ETHTOOL_STSO = 0x1F
ETHTOOL_GFLAGS = 0x25
ETHTOOL_SFLAGS = 0x26
ETHTOOL_SGRO = 0x2C
ETH_FLAG_LRO = 1 << 15

_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL)


def transmit_offloads_off(inet: socket.socket, ifname: str) -> None:
    """`ifname`, in the namespace of the socket `inet`, sends complete checksums and no segment above its MTU.

    Raises OSError.
    """
    _call(inet, ifname, ETHTOOL_STXCSUM, 0)
    _call(inet, ifname, ETHTOOL_STSO, 0)


def receive_offloads_off(inet: socket.socket, ifname: str) -> None:
    """`ifname` hands frames up as they came from the wire: no GRO, no LRO. What it cannot do is off already."""
    for command, value in ((ETHTOOL_SGRO, 0), (ETHTOOL_SFLAGS, _flags(inet, ifname) & ~ETH_FLAG_LRO)):
        try:
            _call(inet, ifname, command, value)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise


def settle_carrier(inet: socket.socket, ifname: str) -> None:
    """Have the kernel act on a carrier that just came, instead of soon: until then it drops what is sent.

    Asking for the link state does it (linkwatch_sync_dev in ethtool_op_get_link of the kernel). Raises OSError.
    """
    _call(inet, ifname, ETHTOOL_GLINK, 0)


def _flags(inet: socket.socket, ifname: str) -> int:
    return _call(inet, ifname, ETHTOOL_GFLAGS, 0)


def _call(inet: socket.socket, ifname: str, command: int, value: int) -> int:
    argument = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    request = struct.pack("16sP16x", ifname.encode(), ctypes.addressof(argument))
    fcntl.ioctl(inet, SIOCETHTOOL, request)
    _, answer = struct.unpack("=II", argument.raw)
    return int(answer)
