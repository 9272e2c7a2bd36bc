//! Writers against servers that give credit by their own rules.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::far::{Far, SECOND, channel, standing};
use super::*;
use crate::wire::{Reader, Writer};

const WINDOW: u32 = 2 << 20;

/// Counts what comes on the channel until nothing has come for a minute; gives credit as `rule` says of what was
/// received in all and granted in all.
async fn consume(
    far: &mut Far,
    id: u32,
    total: usize,
    rule: impl Fn(usize, usize) -> usize,
) -> usize {
    let (mut received, mut granted) = (0, 0);
    let mut quiet = Instant::now() + 60 * SECOND;
    while received < total {
        let Ok(payload) = tokio::time::timeout_at(quiet, far.next()).await else {
            break;
        };
        let payload = payload.expect("the client has gone");
        match payload[0] {
            94 => {
                received += Reader::new(&payload[5..]).string().unwrap().len();
                quiet = Instant::now() + 60 * SECOND;
            }
            80 => far.send(82, |_| {}).await,
            _ => {}
        }
        let credit = rule(received, granted);
        if credit > 0 {
            granted += credit;
            // The line's own time.
            tokio::time::sleep(Duration::from_millis(1)).await;
            far.send(93, |out| {
                out.u32(id);
                out.u32(credit as u32);
            })
            .await;
        }
    }
    received
}

#[tokio::test(start_paused = true)]
async fn every_rule_of_credit_gets_all_the_bytes() {
    let half = WINDOW as usize / 2;
    let at_once = |received: usize, granted: usize| received - granted;
    let coarse = move |received: usize, granted: usize| {
        let due = received - granted;
        if due > half { due } else { 0 }
    };
    // Small credits at first, then only when the window is nearly used up.
    let fickle = move |received: usize, granted: usize| {
        let due = received - granted;
        if received < 1 << 20 || due > 2 * half - 100_000 {
            due
        } else {
            0
        }
    };
    let rules: [&dyn Fn(usize, usize) -> usize; 3] = [&at_once, &coarse, &fickle];
    for (number, rule) in rules.into_iter().enumerate() {
        let (session, _incoming, mut far) = standing(Options::default(), 100_000).await;
        let (channel, id) = channel(&session, &mut far, WINDOW).await;
        let total = 16 << 20;
        let mut writers = JoinSet::new();
        let mut writer = channel.split().1;
        writers.spawn(async move {
            writer.write_all(&vec![0; total]).await.unwrap();
            std::future::pending::<()>().await;
        });
        let received = consume(&mut far, id, total, rule).await;
        assert_eq!(received, total, "rule {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_stands_still_holds_one_window() {
    let (session, _incoming, mut far) = standing(Options::default(), 100_000).await;
    let (channel, id) = channel(&session, &mut far, WINDOW).await;
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
    let all = consume(&mut far, id, first + WINDOW as usize, stops).await;
    assert_eq!(all, first + WINDOW as usize);
}
