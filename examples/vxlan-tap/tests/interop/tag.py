"""A VLAN on top of an interface, for kernels without 802.1Q: `tag.py INTERFACE ID` makes the interface `tagged`.

Frames go on as they came, super-frames and partial checksums included, with the tag put in or taken out.
"""
import fcntl
import os
import select
import socket
import struct
import sys

under, vlan = sys.argv[1], int(sys.argv[2])
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TAP_NO_PI_VNET_HDR = 0x0002 | 0x1000 | 0x4000
CSUM_TSO4_TSO6 = 1 | 2 | 4
SOL_PACKET, AUXDATA, VNET_HDR, IGNORE_OUTGOING, VLAN_VALID = 263, 8, 15, 23, 1 << 4
HEADER = "=BBHHHH"

tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"tagged", TAP_NO_PI_VNET_HDR))
fcntl.ioctl(tap, TUNSETOFFLOAD, CSUM_TSO4_TSO6)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
for option in (AUXDATA, VNET_HDR, IGNORE_OUTGOING):
    wire.setsockopt(SOL_PACKET, option, 1)
wire.bind((under, 3))
print("up", flush=True)
while True:
    ready, _, _ = select.select([tap, wire], [], [])
    if tap in ready:
        read = os.read(tap, 70000)
        flags, gso, length, size, start, offset = struct.unpack(HEADER, read[:10])
        header = struct.pack(HEADER, flags, gso, length + 4 * (gso > 0), size, start + 4 * (flags & 1), offset)
        frame = read[10:]
        try:
            wire.send(header + frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:])
        except OSError:
            pass
    if wire in ready:
        read, ancillary, _, _ = wire.recvmsg(70000, 256)
        for _, kind, data in ancillary:
            # The kernel has taken the tag out and says it here.
            status, _, _, _, _, tag, _ = struct.unpack("=IIIHHHH", data[:20])
            if kind == AUXDATA and status & VLAN_VALID and tag & 0xFFF == vlan:
                try:
                    os.write(tap, read)
                except OSError:
                    pass
