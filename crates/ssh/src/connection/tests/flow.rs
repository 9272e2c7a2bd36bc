//! Windows of several channels and how they affect each other.

use std::time::{Duration, Instant};

use super::*;

/// Writes all that is allowed and grants 30 KB of credit, 2000 times every 300 µs, with one small write on `beside`
/// each time. Returns the bytes in flight on `bulk` at the end.
fn upload(
    connection: &mut Connection,
    out: &mut Sent,
    now: &mut Instant,
    bulk: ChannelId,
    beside: Option<ChannelId>,
) -> usize {
    let mut in_flight = 0;
    for _ in 0..2000 {
        if let Some(id) = beside {
            connection.write_allowance(id, 1, *now).unwrap();
        }
        while connection.write_allowance(bulk, 1 << 20, *now).is_ok() {
            connection.write(bulk, &[0; 32768], out).unwrap();
        }
        out.0.clear();
        in_flight = connection
            .channels
            .get_mut(bulk.0)
            .unwrap()
            .send_window
            .in_flight() as usize;
        *now += Duration::from_micros(300);
        connection
            .handle_packet(*now, adjust(bulk.0, 30_000), out)
            .unwrap();
    }
    in_flight
}

#[test]
fn bulk_data_keeps_a_short_queue_beside_an_interactive_channel_on_a_short_line() {
    for (rtt_micros, min, max) in [(300, 100_000, 170_000), (2000, 256_000, 2 << 20)] {
        let (mut connection, mut out, mut now) = (
            Connection::new(ConnectionConfig::default()),
            Sent::default(),
            now(),
        );
        let [bulk, beside] = [0, 1].map(|id| {
            connection.open_channel(&tcp(), now, &mut out).unwrap();
            now += Duration::from_micros(rtt_micros);
            connection
                .handle_packet(now, confirmation(id, id, 2 << 20, 32768), &mut out)
                .unwrap();
            ChannelId(id)
        });
        let mut run = |beside| upload(&mut connection, &mut out, &mut now, bulk, beside);
        let alone = run(None);
        assert!(alone >= 256 * 1024, "{alone}");
        connection.write_allowance(beside, 1, now).unwrap();
        let interactive =
            connection
                .interactive
                .is_other_interactive(bulk.0, now, connection.rtt.min());
        assert!(!interactive, "one small write is not a conversation");
        let mut run = |beside| upload(&mut connection, &mut out, &mut now, bulk, beside);
        let shared = run(Some(beside));
        assert!((min..max).contains(&shared), "{shared} after {alone}");
        let again = run(None);
        assert!(again >= 256 * 1024, "{again}");
    }
}

#[test]
fn a_new_channel_starts_with_its_share_of_the_largest_window_so_far() {
    let (mut connection, mut out, mut now) = (
        Connection::new(ConnectionConfig::default()),
        Sent::default(),
        now(),
    );
    let window = |out: &mut Sent| {
        let open = out.0.pop_back().unwrap();
        let at = 1 + 4 + "direct-tcpip".len() + 4;
        u32::from_be_bytes(open[at..at + 4].try_into().unwrap())
    };
    let id = connection.open_channel(&tcp(), now, &mut out).unwrap();
    assert_eq!(window(&mut out), 2 << 20);
    now += Duration::from_millis(100);
    connection
        .handle_packet(now, confirmation(0, 0, 2 << 20, 32768), &mut out)
        .unwrap();
    for _ in 0..60 {
        connection
            .handle_packet(now, data(0, &[0; 32768]), &mut out)
            .unwrap();
        while let ReadResult::Data(_) = connection.read(id, now, &mut out) {}
        now += Duration::from_micros(100);
    }
    connection.open_channel(&tcp(), now, &mut out).unwrap();
    assert_eq!(window(&mut out), 8 << 20);
    connection.open_channel(&tcp(), now, &mut out).unwrap();
    assert_eq!(window(&mut out), (16 << 20) / 3);
}
