# The contender of accept.mjs in Python: loop.sock_accept() of asyncio. Implements the protocol of serve.mjs.
# Usage: python3 accept-asyncio.py tcp <ipv4> | unix <path>
import asyncio
import json
import resource
import socket
import sys

connections = 0


def say(message):
    print(json.dumps(message), flush=True)


def mark(loop, ended):
    if not sys.stdin.buffer.raw.read(256):
        loop.remove_reader(sys.stdin)
        ended.set()
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    say({"user": usage.ru_utime * 1e6, "system": usage.ru_stime * 1e6, "connections": connections})


async def accept_all(loop, listener):
    global connections
    while True:
        connection, _ = await loop.sock_accept(listener)
        connection.close()
        connections += 1


async def main(kind, where):
    listener = socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind((where, 0) if kind == "tcp" else where)
    listener.listen(65535)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, mark, loop, ended)
    accepting = loop.create_task(accept_all(loop, listener))
    say({"port": listener.getsockname()[1]} if kind == "tcp" else {"path": where})
    await ended.wait()
    accepting.cancel()


asyncio.run(main(*sys.argv[1:]))
