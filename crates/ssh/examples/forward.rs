//! A minimal `ssh -N -L`: `forward USER@HOST:PORT KEY LISTEN TO`, with `host:port` for LISTEN and TO.
//!
//! Shows how to use the client, and serves to measure its speed. It accepts every host key: do not use it for anything
//! else.

use std::error::Error;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use russh::keys::ssh_key::PrivateKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::task::JoinSet;
use tunneld_ssh::Config;
use tunneld_ssh::auth::AuthResult;
use tunneld_ssh::client::{self, ChannelReader, ChannelWriter, Options, Session, Stream};
use tunneld_ssh::testing::KeySigner;

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, key, listen, to] = args.as_slice() else {
        return Err("forward USER@HOST:PORT KEY LISTEN TO".into());
    };
    let (user, server) = server.split_once('@').ok_or("no user")?;
    let (host, port) = to.rsplit_once(':').ok_or("no port to go to")?;
    let port: u16 = port.parse()?;

    let mut config = Config::default();
    if let Some(cipher) = std::env::var_os("CIPHER") {
        let cipher = cipher.into_string().map_err(|_| "CIPHER is not UTF-8")?;
        let known = tunneld_ssh::algorithm::Kind::Cipher.find(&cipher);
        config.ciphers = vec![known.ok_or("CIPHER is unknown")?];
    }
    let stream = Stream::from(TcpStream::connect(server).await?);
    let options = Options::default();
    let accept_any = |_| async { true };
    let mut authenticator =
        client::handshake(stream, Arc::new(config), options, user, accept_any).await?;
    let key = PrivateKey::from_openssh(std::fs::read_to_string(key)?)?;
    let blob = key.public_key().to_bytes()?;
    let algorithm = key.algorithm().to_string();
    let result = authenticator
        .public_key(&algorithm, &blob, &mut KeySigner::new(key))
        .await?;
    if result != AuthResult::Success {
        return Err(format!("authentication failed: {result:?}").into());
    }
    let (session, _incoming) = authenticator.into_session()?;

    let listener = TcpListener::bind(listen).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, from) = accepted?;
                let (session, host) = (session.clone(), host.to_owned());
                let from = (from.ip().to_string(), from.port());
                connections.spawn(async move {
                    let _ = relay(&session, stream, host, port, from).await;
                });
            }
            Some(_) = connections.join_next() => {}
            error = session.closed() => return Err(error.into()),
        }
    }
}

async fn relay(
    session: &Session,
    mut stream: TcpStream,
    host: String,
    port: u16,
    from: (String, u16),
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let (reader, writer) = session.open_direct_tcpip(host, port, from).await?.split();
    let (local_reader, local_writer) = stream.split();
    let result = tokio::try_join!(
        channel_to_local(reader, local_writer),
        local_to_channel(local_reader, writer)
    );
    if let Err(error) = result {
        // The stream was cut: pass it on as a reset and not as an orderly end.
        stream.set_zero_linger()?;
        return Err(error.into());
    }
    Ok(())
}

async fn channel_to_local(mut from: ChannelReader, mut to: tcp::WriteHalf<'_>) -> io::Result<()> {
    let mut chunks: Vec<Bytes> = Vec::new();
    while from.read_chunks(&mut chunks, 128 * 1024).await? {
        let mut rest = chunks.as_mut_slice();
        while !rest.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = rest.len().min(slices.len());
            for (slice, chunk) in slices.iter_mut().zip(rest.iter()) {
                *slice = IoSlice::new(chunk);
            }
            let mut written = to
                .write_vectored(slices.get(..count).unwrap_or_default())
                .await?;
            while let Some(first) = rest.first_mut() {
                if written < first.len() {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                rest = rest.get_mut(1..).unwrap_or_default();
            }
        }
        chunks.clear();
    }
    to.shutdown().await
}

async fn local_to_channel(mut from: tcp::ReadHalf<'_>, mut to: ChannelWriter) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            count => {
                to.write_all(buffer.get(..count).unwrap_or_default())
                    .await?;
            }
        }
    }
}
