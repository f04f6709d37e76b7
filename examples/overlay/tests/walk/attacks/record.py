"""Records what UDP carries to a port over an interface, until its input ends: IPv4 packets with their lengths in front.

Usage: record.py INTERFACE PORT FILE; prints a line when it begins.
"""

import select
import socket
import struct
import sys

interface, port, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
packets.bind((interface, 0x0003))
packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
print("begun", flush=True)
count = 0
with open(path, "wb") as file:
    while True:
        ready = select.select([packets, sys.stdin], [], [])[0]
        if packets in ready:
            octets, (_, kind, *_) = packets.recvfrom(65535)
            if kind != 0x0800 or len(octets) < 28 or octets[9] != 17:
                continue
            head = (octets[0] & 15) * 4
            if struct.unpack_from(">H", octets, head + 2)[0] == port:
                file.write(struct.pack(">I", len(octets)) + octets)
                count += 1
        elif sys.stdin in ready:
            break
print(count, flush=True)
