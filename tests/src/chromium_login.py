"""Opens a page in Chromium, answers its question for the login of a proxy, and prints the realm and the page's text."""

import asyncio
import json
import os
import signal
import sys
import urllib.request

import websockets

program, profile, proxy, user, password, url = sys.argv[1:]


class Page:
    def __init__(self, socket):
        self.socket, self.last_id, self.replies, self.events = socket, 0, {}, asyncio.Queue()
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        async for text in self.socket:
            message = json.loads(text)
            if "id" in message:
                self.replies.pop(message["id"]).set_result(message.get("result", {}))
            else:
                await self.events.put(message)

    async def call(self, method, **params):
        self.last_id += 1
        reply = self.replies[self.last_id] = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps({"id": self.last_id, "method": method, "params": params}))
        return await reply


async def main():
    chromium = await asyncio.create_subprocess_exec(
        program, f"--user-data-dir={profile}", f"--proxy-server=http://{proxy}", "--proxy-bypass-list=<-loopback>",
        "about:blank", start_new_session=True, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        port = None
        while port is None:
            line = (await chromium.stderr.readline()).decode()
            if not line:
                sys.exit("Chromium has ended")
            if "DevTools listening on ws://" in line:
                port = line.split("ws://")[1].split("/")[0]
        await visit(port)
    finally:
        os.killpg(chromium.pid, signal.SIGKILL)


async def visit(address):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    new = urllib.request.Request(f"http://{address}/json/new", method="PUT")
    target = json.loads(await asyncio.to_thread(lambda: opener.open(new).read()))
    async with websockets.connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
        page = Page(socket)
        await page.call("Page.enable")
        await page.call("Fetch.enable", handleAuthRequests=True)
        asking = asyncio.create_task(page.call("Page.navigate", url=url))
        realm = None
        while True:
            event = await page.events.get()
            params = event["params"]
            if event["method"] == "Fetch.requestPaused":
                asyncio.create_task(page.call("Fetch.continueRequest", requestId=params["requestId"]))
            elif event["method"] == "Fetch.authRequired":
                challenge = params["authChallenge"]
                realm = f"{challenge['source']} {challenge['scheme']} {challenge['realm']}"
                answer = {"response": "ProvideCredentials", "username": user, "password": password}
                asyncio.create_task(
                    page.call("Fetch.continueWithAuth", requestId=params["requestId"], authChallengeResponse=answer)
                )
            elif event["method"] == "Page.loadEventFired":
                break
        await asking
        found = await page.call("Runtime.evaluate", expression="document.body.innerText")
        print(realm)
        print(found["result"]["value"])


asyncio.run(asyncio.wait_for(main(), 30))
