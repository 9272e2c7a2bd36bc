# An SSH server that forwards everything for whoever holds the one key.
# Arguments: host key, authorized keys, bytes after which the server asks for new keys.
import asyncio
import logging
import sys

import asyncssh


class Server(asyncssh.SSHServer):
    def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
        return True

    def server_requested(self, listen_host, listen_port):
        return True


async def main(host_key, authorized, rekey_bytes):
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        config=[],
        server_host_keys=[host_key],
        authorized_client_keys=authorized,
        rekey_bytes=int(rekey_bytes),
    )
    print("listening on", server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
