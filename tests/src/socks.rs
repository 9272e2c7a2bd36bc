//! A SOCKS client, as small as the RFC allows: it shows what a proxy answers, byte for byte.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whom a SOCKS client asks for.
#[derive(Debug, Clone)]
pub enum Dest {
    /// An address.
    Ip(IpAddr),
    /// A name, resolved by the proxy.
    Name(String),
}

/// Asks `proxy` by SOCKS5 for `dest`; the inner error is the reply code.
///
/// # Errors
/// Where the proxy does not speak SOCKS5 without a login.
pub async fn v5(proxy: SocketAddr, dest: &Dest, port: u16) -> Result<Result<TcpStream, u8>> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    ensure!(method == [5, 0], "the method reply is {method:?}");
    stream.write_all(&request_v5(1, dest, port)).await?;
    match reply_v5(&mut stream).await? {
        0 => Ok(Ok(stream)),
        code => Ok(Err(code)),
    }
}

/// A SOCKS5 request with the command `command`.
pub fn request_v5(command: u8, dest: &Dest, port: u16) -> Vec<u8> {
    let mut request = vec![5, command, 0];
    match dest {
        Dest::Ip(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Dest::Ip(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Dest::Name(name) => {
            request.push(3);
            request.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            request.extend(name.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    request
}

/// Reads a SOCKS5 reply and returns its code.
///
/// # Errors
/// Where it is none.
pub async fn reply_v5(stream: &mut TcpStream) -> Result<u8> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version, code, reserved, kind] = head;
    ensure!(version == 5 && reserved == 0, "the reply begins {head:?}");
    let rest = match kind {
        1 => 6,
        4 => 18,
        3 => usize::from(stream.read_u8().await?) + 2,
        _ => bail!("the reply's address has the type {kind}"),
    };
    let mut bound = vec![0; rest];
    stream.read_exact(&mut bound).await?;
    Ok(code)
}

/// Asks `proxy` by SOCKS4, or 4a for a name; the inner error is the reply code.
///
/// # Errors
/// Where the proxy does not speak SOCKS4, or `dest` is an IPv6 address.
pub async fn v4(proxy: SocketAddr, dest: &Dest, port: u16) -> Result<Result<TcpStream, u8>> {
    let mut stream = TcpStream::connect(proxy).await?;
    let mut request = vec![4, 1];
    request.extend(port.to_be_bytes());
    match dest {
        Dest::Ip(IpAddr::V4(ip)) => {
            request.extend(ip.octets());
            request.extend(b"someone\0");
        }
        Dest::Ip(IpAddr::V6(_)) => bail!("SOCKS4 knows no IPv6"),
        Dest::Name(name) => {
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
