"""Shows tokens that are not valid to a manager, as fast as two processes can, until its input ends.

Usage: guess.py ADDRESS TOKENS SOURCE...; TOKENS are old ones, separated by commas, which are shown first, one by one. Prints
a line once it was told of each of them that it is not valid, and at the end how often it showed one, how often it was told, and
how many it showed a second.
"""

import multiprocessing
import os
import socket
import ssl
import struct
import sys
import time

address, old, sources = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
PROCESSES = 2
PATIENCE = 1.3  # an answer comes after a second; whoever waits keeps a place, of which each source has 64

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.minimum_version = ssl.TLSVersion.TLSv1_3


def number(value):
    """A variable number, as in postcard."""
    octets = b""
    while value >= 0x80:
        octets += bytes([value & 0x7F | 0x80])
        value >>= 7
    return octets + bytes([value])


def text(value):
    return number(len(value)) + value


def ask(secret):
    node = os.urandom(16) + text(b"guess") + b"\0" + b"\0" + bytes([192, 168, 77, 99])
    node += number(2377) + number(7946) + text(b"0.1.0") + os.urandom(32)
    body = b"\0" + text(secret) + text(b"no request") + node
    return b"B\x01" + struct.pack(">I", len(body)) + body


def show(source, secret):
    plain = socket.socket()
    plain.settimeout(5)
    plain.bind((source, 0))
    plain.connect((address, 2377))
    connection = context.wrap_socket(plain)
    connection.sendall(ask(secret))
    return connection


def is_told(connection):
    try:
        return b"not valid" in connection.recv(4096)
    except OSError:
        return False


def guess(sources, parent, ended, counts):
    shown, told, waiting = 0, 0, []
    while not ended.is_set() and os.getppid() == parent:
        try:
            connection = show(sources[shown % len(sources)], os.urandom(16))
            connection.setblocking(False)
            waiting.append((time.monotonic() + PATIENCE, connection))
            shown += 1
        except OSError:
            time.sleep(0.01)
        while waiting and waiting[0][0] < time.monotonic():
            connection = waiting.pop(0)[1]
            told += is_told(connection)
            connection.close()
    took = time.monotonic() - began
    for due, connection in waiting:
        time.sleep(max(0, due - time.monotonic()))
        told += is_told(connection)
    counts.put((shown, told, shown / took))


for token in old:
    shown = show(sources[0], int(token.split("-")[3], 36).to_bytes(16, "big"))
    assert is_told(shown), "an old token was not refused"
ended, counts = multiprocessing.Event(), multiprocessing.Queue()
began = time.monotonic()
for process in range(PROCESSES):
    arguments = (sources[process::PROCESSES], os.getpid(), ended, counts)
    multiprocessing.Process(target=guess, args=arguments, daemon=True).start()
print("begun", flush=True)
sys.stdin.read()
ended.set()
shown, told, rate = (sum(one) for one in zip(*(counts.get() for _ in range(PROCESSES))))
print(shown, told, round(rate), flush=True)
