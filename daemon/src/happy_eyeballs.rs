//! Happy Eyeballs (RFC 8305): connects to a name that has several addresses.
//!
//! Used for the SSH port and for the targets of remote forwards. Looking names up, socket options and time limits stay
//! with the callers.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

/// How long one attempt runs before the next address is tried beside it (RFC 8305 §5, Connection Attempt Delay).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Orders addresses so that the families alternate (RFC 8305 §4). The family of the first address goes first, since the
/// resolver has sorted by preference (RFC 6724).
pub(crate) fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<SocketAddr> = addresses.into_iter().collect();
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut ordered = Vec::new();
    loop {
        let before = ordered.len();
        ordered.extend(preferred.next());
        ordered.extend(other.next());
        if ordered.len() == before {
            return ordered;
        }
    }
}

/// Calls `connect` for each address in turn and returns the first connection. The next attempt starts as soon as one
/// fails, or after 250 ms beside the attempts that still run. When one succeeds, the others are dropped.
///
/// # Errors
/// Every address with its error, in the order in which they failed; empty if `addresses` is empty.
///
/// # Cancel safety
/// Dropping the future drops all attempts.
pub(crate) async fn race<T, E, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Vec<(SocketAddr, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut addresses = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut errors = Vec::new();
    loop {
        // Each turn of the loop starts one attempt: the last one failed, or it was given its delay.
        let next = addresses.next();
        let may_have_more = next.is_some();
        attempts.extend(next.map(|address| {
            let attempt = connect(address);
            async move { (address, attempt.await) }
        }));
        if attempts.is_empty() {
            return Err(errors);
        }
        let finished = tokio::select! {
            finished = attempts.next() => finished,
            () = sleep(ATTEMPT_DELAY), if may_have_more => None,
        };
        match finished {
            Some((_, Ok(connection))) => return Ok(connection),
            Some((address, Err(error))) => errors.push((address, error)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    fn parse(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn address_families_alternate() {
        assert_eq!(
            interleave(parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"])),
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"])
        );
        assert_eq!(interleave(vec![]), vec![]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_delays_the_next_by_250_ms_and_a_refused_one_not_at_all() {
        let [silent, refused, good] =
            [1, 2, 3].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let connect = |address: SocketAddr| async move {
            match address.port() {
                1 => pending().await,
                2 => Err("refused"),
                port => Ok(port),
            }
        };
        let start = Instant::now();
        assert_eq!(race(vec![silent, refused, good], connect).await, Ok(3));
        assert_eq!(start.elapsed(), ATTEMPT_DELAY);
        let all_failed = race(vec![refused, refused], connect).await;
        assert_eq!(all_failed, Err(vec![(refused, "refused"); 2]));
        assert_eq!(race(Vec::new(), connect).await, Err(Vec::new()));
    }
}
