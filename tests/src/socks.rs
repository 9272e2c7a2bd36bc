//! A minimal SOCKS client (RFC 1928; SOCKS4 and 4a have no RFC) that checks the proxy's replies byte for byte.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The address of a SOCKS request.
#[derive(Debug, Clone)]
pub enum Destination {
    /// An address.
    Ip(IpAddr),
    /// A name, which the proxy resolves.
    Name(String),
}

/// Connects to `dest` through a SOCKS5 proxy. The inner error is the proxy's reply code.
///
/// # Errors
/// If the proxy does not speak SOCKS5, or requires a login.
pub async fn connect_v5(
    proxy: SocketAddr,
    dest: &Destination,
    port: u16,
) -> Result<Result<TcpStream, u8>> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    ensure!(method == [5, 0], "the method reply is {method:?}");
    stream.write_all(&request_v5(1, dest, port)).await?;
    match read_reply_v5(&mut stream).await? {
        0 => Ok(Ok(stream)),
        code => Ok(Err(code)),
    }
}

/// The bytes of a SOCKS5 request, without the greeting. `command` is 1 for CONNECT, 2 for BIND, 3 for UDP.
pub fn request_v5(command: u8, dest: &Destination, port: u16) -> Vec<u8> {
    let mut request = vec![5, command, 0];
    match dest {
        Destination::Ip(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Destination::Ip(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Destination::Name(name) => {
            request.push(3);
            request.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            request.extend(name.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    request
}

/// Reads a SOCKS5 reply and returns its code, 0 for success.
///
/// # Errors
/// If the bytes are not a SOCKS5 reply.
pub async fn read_reply_v5(stream: &mut TcpStream) -> Result<u8> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version, code, reserved, kind] = head;
    ensure!(version == 5 && reserved == 0, "the reply begins {head:?}");
    let rest = match kind {
        1 => 6,
        4 => 18,
        3 => usize::from(stream.read_u8().await?) + 2,
        _ => bail!("the reply has the unknown address type {kind}"),
    };
    let mut bound = vec![0; rest];
    stream.read_exact(&mut bound).await?;
    Ok(code)
}

/// Connects to `dest` through a SOCKS4 proxy, by SOCKS4a for a name. The inner error is the proxy's reply code.
///
/// # Errors
/// If the proxy does not speak SOCKS4, or `dest` is an IPv6 address.
pub async fn connect_v4(
    proxy: SocketAddr,
    dest: &Destination,
    port: u16,
) -> Result<Result<TcpStream, u8>> {
    let mut stream = TcpStream::connect(proxy).await?;
    let mut request = vec![4, 1];
    request.extend(port.to_be_bytes());
    match dest {
        Destination::Ip(IpAddr::V4(ip)) => {
            request.extend(ip.octets());
            request.extend(b"someone\0");
        }
        Destination::Ip(IpAddr::V6(_)) => bail!("SOCKS4 has no IPv6 addresses"),
        Destination::Name(name) => {
            // SOCKS4a: an address of the form 0.0.0.x says that a name follows the user.
            request.extend([0, 0, 0, 1]);
            request.extend(b"someone\0");
            request.extend(name.as_bytes());
            request.push(0);
        }
    }
    stream.write_all(&request).await?;
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).await?;
    let [zero, code, ..] = reply;
    ensure!(zero == 0, "the reply begins {reply:?}");
    match code {
        90 => Ok(Ok(stream)),
        code => Ok(Err(code)),
    }
}
