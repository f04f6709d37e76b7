"""Shows tokens that are not valid to a manager, as fast as it goes, until its input ends.

Usage: guess.py ADDRESS TOKENS SOURCE...; TOKENS are old ones, separated by commas, which are shown first, one by one. Prints
a line once it was told of each of them that it is not valid, and at the end how often it showed one and how often it was told.
"""

import asyncio
import os
import ssl
import struct
import sys

address, old, sources = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
AT_A_TIME = 48  # from each source, of which 64 have a place

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


shown = told = 0
ended = False


async def show(source, secret):
    """Whether it is told that the secret is not valid."""
    global shown, told
    coming = asyncio.open_connection(address, 2377, ssl=context, local_addr=(source, 0))
    reader, writer = await asyncio.wait_for(coming, 5)
    writer.write(ask(secret))
    shown += 1
    said = await asyncio.wait_for(reader.read(4096), 10)
    writer.close()
    is_told = b"not valid" in said
    told += is_told
    return is_told


async def guess(source):
    while not ended:
        try:
            await show(source, os.urandom(16))
        except (OSError, asyncio.TimeoutError):
            await asyncio.sleep(0.01)


async def main():
    global ended
    for token in old:
        assert await show(sources[0], int(token.split("-")[3], 36).to_bytes(16, "big")), "an old token was not refused"
    tasks = [asyncio.create_task(guess(source)) for source in sources for _ in range(AT_A_TIME)]
    while shown < AT_A_TIME:
        await asyncio.sleep(0.01)
    print("begun", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    ended = True
    print(shown, told, flush=True)
    os._exit(0)


asyncio.run(main())
