//! Windows of several channels, and what they mean to each other.

use std::time::{Duration, Instant};

use super::tests::*;
use super::*;

/// Writes all that may be written, then credits 30 KB every 300 µs, for so many times; what is under way at the end.
fn upload(
    connection: &mut Connection,
    out: &mut Sent,
    now: &mut Instant,
    bulk: ChannelId,
    beside: Option<ChannelId>,
) -> usize {
    let mut under_way = 0;
    for _ in 0..2000 {
        if let Some(id) = beside {
            connection.may_write(id, 1, *now).unwrap();
        }
        while connection.may_write(bulk, 1 << 20, *now).is_ok() {
            connection.write(bulk, &[0; 32768], out).unwrap();
        }
        out.0.clear();
        under_way = connection
            .channels
            .get_mut(bulk.0)
            .unwrap()
            .send
            .under_way() as usize;
        *now += Duration::from_micros(300);
        connection
            .handle(*now, adjust(bulk.0, 30_000), out)
            .unwrap();
    }
    under_way
}

#[test]
fn bulk_keeps_out_of_the_way_of_small_things_on_a_short_line() {
    for (trip, least, most) in [(300, 100_000, 170_000), (2000, 256_000, 2 << 20)] {
        let (mut connection, mut out, mut now) =
            (Connection::new(Settings::default()), Sent::default(), now());
        let [bulk, beside] = [0, 1].map(|id| {
            connection.open(&tcp(), now, &mut out).unwrap();
            now += Duration::from_micros(trip);
            connection
                .handle(now, confirmation(id, id, 2 << 20, 32768), &mut out)
                .unwrap();
            ChannelId(id)
        });
        let mut play = |beside| upload(&mut connection, &mut out, &mut now, bulk, beside);
        let alone = play(None);
        assert!(alone >= 256 * 1024, "{alone}");
        connection.may_write(beside, 1, now).unwrap();
        let greeted = connection
            .small
            .is_beside(bulk.0, now, connection.rtt.least());
        assert!(!greeted, "a single small write is no conversation");
        let mut play = |beside| upload(&mut connection, &mut out, &mut now, bulk, beside);
        let shared = play(Some(beside));
        assert!((least..most).contains(&shared), "{shared} after {alone}");
        let again = play(None);
        assert!(again >= 256 * 1024, "{again}");
    }
}

#[test]
fn a_new_channel_begins_with_its_share_of_what_the_line_was_found_to_hold() {
    let (mut connection, mut out, mut now) =
        (Connection::new(Settings::default()), Sent::default(), now());
    let window = |out: &mut Sent| {
        let open = out.0.pop_back().unwrap();
        let at = 1 + 4 + "direct-tcpip".len() + 4;
        u32::from_be_bytes(open[at..at + 4].try_into().unwrap())
    };
    let id = connection.open(&tcp(), now, &mut out).unwrap();
    assert_eq!(window(&mut out), 2 << 20);
    now += Duration::from_millis(100);
    connection
        .handle(now, confirmation(0, 0, 2 << 20, 32768), &mut out)
        .unwrap();
    for _ in 0..60 {
        connection
            .handle(now, data(0, &[0; 32768]), &mut out)
            .unwrap();
        while let Taken::Data(_) = connection.take(id, now, &mut out) {}
        now += Duration::from_micros(100);
    }
    connection.open(&tcp(), now, &mut out).unwrap();
    assert_eq!(window(&mut out), 8 << 20);
    connection.open(&tcp(), now, &mut out).unwrap();
    assert_eq!(window(&mut out), (16 << 20) / 3);
}
