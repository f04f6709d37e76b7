"""Sends recorded packets again, with the source addresses that they had.

Usage: replay.py FILE TO; only those to the address TO. Prints how many it sent.
"""

import socket
import struct
import sys
import time

octets, to = open(sys.argv[1], "rb").read(), sys.argv[2]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
count = at = 0
while at + 4 <= len(octets):
    (length,) = struct.unpack_from(">I", octets, at)
    packet = bytearray(octets[at + 4 : at + 4 + length])
    at += 4 + length
    if socket.inet_ntoa(packet[16:20]) != to:
        continue
    head = (packet[0] & 15) * 4
    # What was recorded before a device computed it is no checksum; zero is none (RFC 768).
    packet[head + 6 : head + 8] = b"\0\0"
    raw.sendto(bytes(packet), (to, 0))
    count += 1
    if count % 50 == 0:
        time.sleep(0.002)
print(count)
