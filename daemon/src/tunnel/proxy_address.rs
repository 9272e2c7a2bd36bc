//! The proxy that a tunnel's dynamic forward offers to browsers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tunneld_config::addr::{BindAddr, ListenAddr};
use tunneld_config::model::{Forward, Tunnel};
use tunneld_proto::status::{ForwardState, ForwardStatus};

use crate::pac::PacTunnel;

/// A port that no proxy listens on: the TCP port of `tcpmux`, which no system serves.
const NO_PORT: u16 = 1;

/// Returns what a tunnel contributes to the proxy auto-configuration file. `statuses` are those of its forwards, in the
/// order of the configuration unless a reload is replacing them at this moment. `None` without `proxy_for`.
pub(super) fn pac_tunnel(config: &Tunnel, statuses: &[ForwardStatus]) -> Option<PacTunnel> {
    if config.proxy_for.is_empty() {
        return None;
    }
    let (index, listen) = config
        .forwards
        .iter()
        .enumerate()
        .find_map(|(index, forward)| match forward {
            Forward::Dynamic {
                listen: listen @ ListenAddr::Tcp { .. },
            } => Some((index, listen)),
            _ => None,
        })?;
    let bound = statuses.get(index).and_then(bound_address);
    Some(PacTunnel {
        proxy: bound.map_or_else(|| configured(listen), |address| address.to_string()),
        patterns: config.proxy_for.clone(),
    })
}

/// Returns the address that clients on this machine connect to. `None` while the forward does not listen.
fn bound_address(status: &ForwardStatus) -> Option<SocketAddr> {
    if status.state != ForwardState::Listening {
        return None;
    }
    let mut address: SocketAddr = status.listen.parse().ok()?;
    // Nothing can connect to the unspecified address itself.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Some(address)
}

/// Returns the address of a forward that does not listen now. The file must not say DIRECT because a tunnel is down: far
/// names would be resolved here. A port that is chosen at each start is replaced by one that refuses.
fn configured(listen: &ListenAddr) -> String {
    let ListenAddr::Tcp { bind, port } = listen else {
        return format!("127.0.0.1:{NO_PORT}");
    };
    let port = if *port == 0 { NO_PORT } else { *port };
    match bind {
        BindAddr::Host(host) if host.contains(':') => format!("[{host}]:{port}"),
        BindAddr::Host(host) => format!("{host}:{port}"),
        BindAddr::Loopback | BindAddr::Any => format!("127.0.0.1:{port}"),
    }
}
