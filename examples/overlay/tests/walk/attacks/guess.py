"""Shows tokens that are not valid to a manager, as fast as it goes, until its input ends.

Usage: guess.py ADDRESS TOKENS SOURCE...; TOKENS are old ones, separated by commas, which are shown beside guesses. Prints a
line when it begins, and at the end how often it showed one and how often it was told that it is not valid.
"""

import asyncio
import os
import ssl
import struct
import sys

address, old, sources = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
AT_A_TIME = 64  # from each source: as many as have a place

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


def secrets():
    for token in old:
        yield int(token.split("-")[3], 36).to_bytes(16, "big")
    while True:
        yield os.urandom(16)


shown = told = 0
ended = False


async def guess(source, guesses):
    global shown, told
    while not ended:
        try:
            coming = asyncio.open_connection(address, 2377, ssl=context, local_addr=(source, 0))
            reader, writer = await asyncio.wait_for(coming, 5)
            writer.write(ask(next(guesses)))
            shown += 1
            said = await asyncio.wait_for(reader.read(4096), 10)
            told += b"not valid" in said
            writer.close()
        except (OSError, asyncio.TimeoutError):
            await asyncio.sleep(0.01)


async def main():
    global ended
    guesses = secrets()
    tasks = [asyncio.create_task(guess(source, guesses)) for source in sources for _ in range(AT_A_TIME)]
    while shown < AT_A_TIME:
        await asyncio.sleep(0.01)
    print("begun", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    ended = True
    print(shown, told, flush=True)
    os._exit(0)


asyncio.run(main())
