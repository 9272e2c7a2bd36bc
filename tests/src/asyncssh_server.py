# An SSH server that allows every forward. It accepts the authorized keys and a fixed password; see asyncssh.rs for
# the user names with a special meaning.
# Arguments: host key, authorized keys, number of sent bytes after which the server rekeys.
import asyncio
import logging
import sys

import asyncssh


PASSWORD, CODE = "lab pass", "123456"


class Server(asyncssh.SSHServer):
    def connection_made(self, conn):
        self.conn = conn

    def auth_completed(self):
        if self.conn.get_extra_info("username") == "intruder":
            for _ in range(3):
                asyncio.get_running_loop().create_task(self.open_unrequested_channel())

    async def open_unrequested_channel(self):
        try:
            await self.conn.open_connection("localhost", 1, "localhost", 1)
        except asyncssh.ChannelOpenError as error:
            logging.info("refused: %s", error)

    def begin_auth(self, username):
        return username != "none"

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        if username == "expired" and password == PASSWORD:
            raise asyncssh.PasswordChangeRequired("Your password is too old")
        return password == PASSWORD

    def change_password(self, username, old_password, new_password):
        if new_password == "too short":
            raise asyncssh.PasswordChangeRequired("That one is too short")
        return old_password == PASSWORD and new_password == "new pass"

    def kbdint_auth_supported(self):
        return True

    def get_kbdint_challenge(self, username, lang, submethods):
        self.expected_answers = [PASSWORD, CODE]
        return "", "Two factors", "", [("Password: ", False)]

    def validate_kbdint_response(self, username, responses):
        if list(responses) != [self.expected_answers.pop(0)]:
            return False
        return ("", "", "", [("Verification code: ", True)]) if self.expected_answers else True

    def unix_connection_requested(self, dest_path):
        return True

    def unix_server_requested(self, listen_path):
        return True

    def connection_requested(self, dest_host, dest_port, orig_host, orig_port):
        return True

    def server_requested(self, listen_host, listen_port):
        return True


async def main(host_key, authorized, rekey_bytes):
    # The lab counts key exchanges in the debug log.
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        # Without this asyncssh reads the configuration of the machine.
        config=[],
        server_host_keys=[host_key],
        authorized_client_keys=authorized,
        rekey_bytes=int(rekey_bytes),
    )
    print("listening on", server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
