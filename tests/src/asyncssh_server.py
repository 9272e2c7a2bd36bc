# An SSH server that forwards everything for whoever holds the one key.
# Arguments: host key, authorized keys, bytes after which the server asks for new keys.
import asyncio
import logging
import sys

import asyncssh
from asyncssh.connection import SSHConnection

LAST_BELOW_CHANNELS = 79
send_packet = SSHConnection.send_packet


# RFC 4253, section 7.1: whoever has sent its KEXINIT sends nothing of a channel before its NEWKEYS.
# The asyncssh of Debian 12 (2.10.1-2+deb12u2) does send it; this holds it back.
def conforming(self, pkttype, *args, **kwargs):
    if pkttype > LAST_BELOW_CHANNELS and self._auth_complete:
        if self._kex_complete and self._rekey_bytes_sent >= self._rekey_bytes:
            self._send_kexinit()
            self._kexinit_sent = True
        if not self._kex_complete:
            self._deferred_packets.append((pkttype, args))
            return
    send_packet(self, pkttype, *args, **kwargs)


SSHConnection.send_packet = conforming


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
