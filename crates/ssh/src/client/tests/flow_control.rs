//! Writers against servers that grant credit by different rules.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Options;
use crate::testing::peer::{SECOND, ServerPeer, established, open_channel};
use crate::wire::{Reader, Writer};

const WINDOW: u32 = 2 << 20;

/// Counts the bytes on the channel until `total`, or until none have arrived for a minute. Grants credit by `rule`, a
/// function of the bytes received and the bytes granted so peer.
async fn consume(
    peer: &mut ServerPeer,
    id: u32,
    total: usize,
    rule: impl Fn(usize, usize) -> usize,
) -> usize {
    let (mut received, mut granted) = (0, 0);
    let mut quiet = Instant::now() + 60 * SECOND;
    while received < total {
        let Ok(payload) = tokio::time::timeout_at(quiet, peer.next()).await else {
            break;
        };
        let payload = payload.expect("the client disconnected");
        match payload[0] {
            94 => {
                received += Reader::new(&payload[5..]).string().unwrap().len();
                quiet = Instant::now() + 60 * SECOND;
            }
            80 => peer.send(82, |_| {}).await,
            _ => {}
        }
        let credit = rule(received, granted);
        if credit > 0 {
            granted += credit;
            // One way of the line.
            tokio::time::sleep(Duration::from_millis(1)).await;
            peer.send(93, |out| {
                out.u32(id);
                out.u32(credit as u32);
            })
            .await;
        }
    }
    received
}

#[tokio::test(start_paused = true)]
async fn every_credit_rule_receives_all_bytes() {
    let half = WINDOW as usize / 2;
    let at_once = |received: usize, granted: usize| received - granted;
    let coarse = move |received: usize, granted: usize| {
        let due = received - granted;
        if due > half { due } else { 0 }
    };
    // Small credits at first, then only when the window is nearly used up.
    let late = move |received: usize, granted: usize| {
        let due = received - granted;
        if received < 1 << 20 || due > 2 * half - 100_000 {
            due
        } else {
            0
        }
    };
    let rules: [&dyn Fn(usize, usize) -> usize; 3] = [&at_once, &coarse, &late];
    for (number, rule) in rules.into_iter().enumerate() {
        let (session, _incoming, mut peer) = established(Options::default(), 100_000).await;
        let (channel, id) = open_channel(&session, &mut peer, WINDOW).await;
        let total = 16 << 20;
        let mut writers = JoinSet::new();
        let mut writer = channel.split().1;
        writers.spawn(async move {
            writer.write_all(&vec![0; total]).await.unwrap();
            std::future::pending::<()>().await;
        });
        let received = consume(&mut peer, id, total, rule).await;
        assert_eq!(received, total, "rule {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_target_receives_at_most_one_window() {
    let (session, _incoming, mut peer) = established(Options::default(), 100_000).await;
    let (channel, id) = open_channel(&session, &mut peer, WINDOW).await;
    let mut writers = JoinSet::new();
    let mut writer = channel.split().1;
    writers.spawn(async move {
        let _ = writer.write_all(&vec![0; 16 << 20]).await;
    });
    let first = 4 << 20;
    let stops = |received: usize, granted: usize| {
        if granted < first {
            received - granted
        } else {
            0
        }
    };
    let all = consume(&mut peer, id, first + WINDOW as usize, stops).await;
    assert_eq!(all, first + WINDOW as usize);
}
