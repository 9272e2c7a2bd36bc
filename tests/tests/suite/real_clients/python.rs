//! Python: pip, urllib, requests, urllib3, websockets. All of them are Debian's, so `/usr/bin/python3` and no other.

use anyhow::Result;

use super::FarSite;

const PYTHON: &str = "/usr/bin/python3";

#[tokio::test]
async fn pip_downloads_from_a_far_index() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let index = site.nginx.root().join("simple/labpkg");
    std::fs::create_dir_all(&index)?;
    let wheel = "labpkg-1.0-py3-none-any.whl";
    std::fs::write(
        index.join("index.html"),
        format!("<a href=\"{wheel}\">{wheel}</a>"),
    )?;
    let make = "import sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1], 'w') as wheel:\n \
        for name, text in [('METADATA', 'Metadata-Version: 2.1\\nName: labpkg\\nVersion: 1.0\\n'),\
        ('WHEEL', 'Wheel-Version: 1.0\\nGenerator: lab\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'), ('RECORD', '')]:\n  \
        wheel.writestr('labpkg-1.0.dist-info/' + name, text)\n";
    let file = index.join(wheel).display().to_string();
    tunneld_tests::process::run_tool(PYTHON, &["-c", make, &file]).await?;
    let (certificate, to) = (
        site.certificate(),
        site.path("wheels").display().to_string(),
    );
    for base in [site.http_url(), site.https_url()] {
        let index = format!("{base}/simple/");
        let argv = [
            PYTHON,
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "download",
            "-q",
            "--no-cache-dir",
            "--no-deps",
            "--retries",
            "0",
            "--trusted-host",
            tunneld_tests::nginx::NAME,
            "--cert",
            &certificate,
            "--index-url",
            &index,
            "-d",
            &to,
            "labpkg",
        ];
        site.exec(&[], &argv).await?.expect_exit(0)?;
        std::fs::remove_file(site.path("wheels").join(wheel))?;
    }
    Ok(())
}

/// Runs a script with the URLs of the page over http and https, and returns what it prints.
async fn run(site: &FarSite, script: &str) -> Result<String> {
    let certificate = site.certificate();
    let variables = [
        ("SSL_CERT_FILE", certificate.as_str()),
        ("REQUESTS_CA_BUNDLE", certificate.as_str()),
    ];
    let (http, https) = (site.http_url() + "/page", site.https_url() + "/page");
    let argv = [PYTHON, "-c", script, http.as_str(), https.as_str()];
    Ok(site.exec(&variables, &argv).await?.expect_exit(0)?.stdout)
}

#[tokio::test]
async fn urllib_and_requests_follow_the_variables() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let urllib = "import sys, urllib.request\n\
                  for url in sys.argv[1:]: print(urllib.request.urlopen(url, timeout=15).read().decode())";
    assert_eq!(run(&site, urllib).await?, "far page\nfar page\n");
    let requests = "import sys, requests\n\
                    session = requests.Session()\n\
                    for url in sys.argv[1:] * 2: print(session.get(url, timeout=15).text)";
    assert_eq!(run(&site, requests).await?, "far page\n".repeat(4));
    Ok(())
}

#[tokio::test]
async fn urllib3_takes_the_proxy_as_an_argument_and_ignores_the_variables() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let script = "import os, ssl, sys, urllib3\n\
        manager = urllib3.ProxyManager(os.environ['http_proxy'], ssl_context=ssl.create_default_context())\n\
        for url in sys.argv[1:] * 2: print(manager.request('GET', url, timeout=15).data.decode())\n\
        try: urllib3.PoolManager(retries=False).request('GET', sys.argv[1], timeout=15)\n\
        except urllib3.exceptions.HTTPError: print('ignored')";
    assert_eq!(
        run(&site, script).await?,
        "far page\n".repeat(4) + "ignored\n"
    );
    Ok(())
}

#[tokio::test]
async fn websockets_work_over_connect_and_over_an_upgrade() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    // The server is in the same process; the name leads to it from the far side alone.
    let script = r#"
import asyncio, http.client, os, socket, urllib.parse, websockets
proxy = urllib.parse.urlsplit(os.environ['http_proxy'])
async def echo(socket):
    async for message in socket: await socket.send(message)
async def main():
    async with websockets.serve(echo, '127.0.0.1', 0) as server:
        port = server.sockets[0].getsockname()[1]
        def by_connect():
            connection = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=15)
            connection.set_tunnel('far.test', port)
            connection.connect()
            return connection.sock
        sock = await asyncio.to_thread(by_connect)
        sock.setblocking(False)
        async with websockets.connect(f'ws://far.test:{port}/', sock=sock) as client:
            big = 'x' * 500000
            await client.send(big)
            print(await client.recv() == big)
        reader, writer = await asyncio.open_connection(proxy.hostname, proxy.port)
        writer.write(f'GET http://far.test:{port}/ HTTP/1.1\r\nHost: far.test:{port}\r\nConnection: Upgrade\r\n'
            'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bGFibGFibGFibGFibGFiMQ==\r\n\r\n'.encode())
        head = await reader.readuntil(b'\r\n\r\n')
        print(head.split(b'\r\n')[0].decode())
        writer.write(b'\x81\x82\0\0\0\0hi')
        print(await reader.readexactly(4))
        writer.close()
        try:
            async with websockets.connect(f'ws://far.test:{port}/', open_timeout=10): print('connected')
        except OSError: print('ignored')
asyncio.run(main())
"#;
    let printed = run(&site, script).await?;
    let expected = "True\nHTTP/1.1 101 Switching Protocols\nb'\\x81\\x02hi'\nignored\n";
    assert_eq!(printed, expected);
    Ok(())
}
