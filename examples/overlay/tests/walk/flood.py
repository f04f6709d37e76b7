"""Garbage for a node, for some seconds: datagrams to its ports, and connections that say nothing or nonsense.

Usage: flood.py ADDRESS SECONDS; prints how much it sent.
"""

import os
import random
import socket
import sys
import time

address, seconds = sys.argv[1], float(sys.argv[2])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent, datagrams, connections = [], 0, 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    for _ in range(50):
        for port in (7946, 4789, 4500):
            # Some look like what belongs there: a VXLAN header, an SPI, a sealed gossip packet.
            head = random.choice([b"", b"\x08\0\0\0\0\x10\x01\0", b"\0\0\0\0", b"\x01", b"\xff"])
            try:
                udp.sendto(head + os.urandom(random.randrange(1400)), (address, port))
                datagrams += 1
            except OSError:
                pass
    for port in (2377, 7946):
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        stream.setblocking(False)
        try:
            stream.connect((address, port))
        except OSError:
            pass
        silent.append(stream)
        connections += 1
    # What stands is told nonsense, or left waiting.
    for stream in silent[-64::8]:
        try:
            stream.send(os.urandom(100))
        except OSError:
            pass
    while len(silent) > 800:
        silent.pop(0).close()
print(datagrams, connections)
