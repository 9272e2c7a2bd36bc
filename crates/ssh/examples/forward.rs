//! A bare `ssh -N -L`: `forward USER@HOST:PORT KEY LISTEN TO`, each of the last two `host:port`.
//!
//! Shows how the driver is meant to be used, and is what its speed is measured with. It trusts whatever host
//! key it sees: not for use beyond that.

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
use tunneld_ssh::driver::{
    self, ChannelReader, ChannelWriter, KeySigner, Options, Session, Stream,
};

type Fault = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, key, listen, to] = args.as_slice() else {
        return Err("forward USER@HOST:PORT KEY LISTEN TO".into());
    };
    let (user, server) = server.split_once('@').ok_or("no user")?;
    let (host, port) = to.rsplit_once(':').ok_or("no port to go to")?;
    let port: u16 = port.parse()?;

    let mut config = Config::default();
    if let Some(cipher) = std::env::var_os("CIPHER") {
        let cipher = cipher.into_string().map_err(|_| "CIPHER is no text")?;
        config.ciphers = tunneld_ssh::algorithm::Kind::Cipher.resolve(&cipher)?;
    }
    let stream = Stream::from(TcpStream::connect(server).await?);
    let options = Options::default();
    let trust = |_| async { true };
    let mut connected = driver::handshake(stream, Arc::new(config), options, user, trust).await?;
    let key = PrivateKey::from_openssh(std::fs::read_to_string(key)?)?;
    let blob = key.public_key().to_bytes()?;
    let algorithm = key.algorithm().to_string();
    let result = connected
        .publickey(&algorithm, &blob, &mut KeySigner::new(key))
        .await?;
    if result != AuthResult::Success {
        return Err(format!("not logged in: {result:?}").into());
    }
    let (session, _incoming) = connected.into_session()?;

    let listener = TcpListener::bind(listen).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, from) = accepted?;
                let (session, host) = (session.clone(), host.to_owned());
                let from = (from.ip().to_string(), from.port());
                connections.spawn(async move {
                    let _ = carry(&session, stream, host, port, from).await;
                });
            }
            Some(_) = connections.join_next() => {}
            why = session.closed() => return Err(why.into()),
        }
    }
}

async fn carry(
    session: &Session,
    mut stream: TcpStream,
    host: String,
    port: u16,
    from: (String, u16),
) -> Result<(), Fault> {
    stream.set_nodelay(true)?;
    let (reader, writer) = session.open_direct_tcpip(host, port, from).await?.split();
    let (local_reader, local_writer) = stream.split();
    let done = tokio::try_join!(down(reader, local_writer), up(local_reader, writer));
    if let Err(error) = done {
        // No end of the file where there was none: a reset.
        stream.set_zero_linger()?;
        return Err(error.into());
    }
    Ok(())
}

async fn down(mut from: ChannelReader, mut to: tcp::WriteHalf<'_>) -> io::Result<()> {
    let mut pieces: Vec<Bytes> = Vec::new();
    while from.next_pieces(&mut pieces, 128 * 1024).await? {
        let mut rest = pieces.as_mut_slice();
        while !rest.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = rest.len().min(slices.len());
            for (slice, piece) in slices.iter_mut().zip(rest.iter()) {
                *slice = IoSlice::new(piece);
            }
            let mut wrote = to
                .write_vectored(slices.get(..count).unwrap_or_default())
                .await?;
            while let Some(first) = rest.first_mut() {
                if wrote < first.len() {
                    first.advance(wrote);
                    break;
                }
                wrote -= first.len();
                rest = rest.get_mut(1..).unwrap_or_default();
            }
        }
        pieces.clear();
    }
    to.shutdown().await
}

async fn up(mut from: tcp::ReadHalf<'_>, mut to: ChannelWriter) -> io::Result<()> {
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
