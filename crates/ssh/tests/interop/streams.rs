//! Bytes over channels arrive complete and in order, and other channels do not hold them up.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_ssh::Config;
use tunneld_ssh::client::{Channel, Options, Session};

use super::lab::{Pattern, Sshd, Target, TargetBehavior};

const MB: u64 = 1 << 20;

pub(crate) async fn open(session: &Session, target: &Target) -> Channel {
    session
        .open_direct_tcpip("127.0.0.1", target.addr.port(), ("127.0.0.1".into(), 1))
        .await
        .unwrap()
}

/// Reads `count` bytes of the pattern and the end.
async fn download(channel: Channel, count: u64) {
    let (mut reader, _writer) = channel.split();
    let mut pattern = Pattern::default();
    while let Some(bytes) = reader.read_chunk().await.unwrap() {
        assert!(pattern.check(&bytes), "wrong at about {}", pattern.count());
    }
    assert_eq!(pattern.count(), count);
}

/// Writes `count` bytes of the pattern. The target confirms that they arrived unchanged.
async fn upload(channel: Channel, count: u64) {
    let (mut reader, mut writer) = channel.split();
    let mut pattern = Pattern::default();
    let mut buffer = vec![0; 48 * 1024];
    let mut left = count;
    while left > 0 {
        let some = buffer.len().min(left as usize);
        pattern.fill(&mut buffer[..some]);
        writer.write_all(&buffer[..some]).await.unwrap();
        left -= some as u64;
    }
    writer.shutdown().await.unwrap();
    assert_eq!(reader.read_u64().await.unwrap(), count);
    assert_eq!(
        reader.read_u8().await.unwrap(),
        1,
        "the bytes arrived changed"
    );
    assert!(reader.read_chunk().await.unwrap().is_none());
}

async fn echo(channel: &mut Channel) -> Duration {
    let sent = Instant::now();
    channel.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    channel.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
    sent.elapsed()
}

/// The shortest of 20 round trips: a busy machine delays some of them.
async fn best_echo(channel: &mut Channel) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..20 {
        best = best.min(echo(channel).await);
    }
    best
}

#[tokio::test]
async fn a_hundred_megabytes_each_way() {
    let (_sshd, session, _) = Sshd::session("", Config::default(), Options::default()).await;
    let source = Target::start(TargetBehavior::Send(100 * MB)).await;
    let check = Target::start(TargetBehavior::Check).await;
    download(open(&session, &source).await, 100 * MB).await;
    upload(open(&session, &check).await, 100 * MB).await;
}

#[tokio::test]
async fn each_direction_ends_alone() {
    let (_sshd, session, _) = Sshd::session("", Config::default(), Options::default()).await;
    let target = Target::start(TargetBehavior::Echo).await;
    let (mut reader, mut writer) = open(&session, &target).await.split();
    writer.write_all(b"all of it").await.unwrap();
    writer.shutdown().await.unwrap();
    assert_eq!(
        writer.write_all(b"more").await.unwrap_err().kind(),
        std::io::ErrorKind::BrokenPipe
    );
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"all of it");
}

#[tokio::test]
async fn stopped_readers_hold_up_no_other_channel() {
    let (_sshd, session, _) = Sshd::session("", Config::default(), Options::default()).await;
    let source = Target::start(TargetBehavior::Send(8 * MB)).await;
    let target = Target::start(TargetBehavior::Echo).await;
    let mut ping = open(&session, &target).await;
    let mut stopped = Vec::new();
    for count in [1, 20] {
        while stopped.len() < count {
            stopped.push(open(&session, &source).await);
        }
        // Far more than all windows can hold.
        download(open(&session, &source).await, 8 * MB).await;
        let took = best_echo(&mut ping).await;
        assert!(
            took < Duration::from_millis(50),
            "{count} stopped: {took:?}"
        );
    }
    for channel in stopped {
        download(channel, 8 * MB).await;
    }
}

#[tokio::test]
async fn stopped_targets_hold_up_no_other_channel() {
    let (_sshd, session, _) = Sshd::session("", Config::default(), Options::default()).await;
    let later = Target::start(TargetBehavior::CheckLater).await;
    let target = Target::start(TargetBehavior::Echo).await;
    let check = Target::start(TargetBehavior::Check).await;
    let mut ping = open(&session, &target).await;
    let mut writers = JoinSet::new();
    for count in [1, 20] {
        while writers.len() < count {
            // More than its window and all buffers on the way hold.
            writers.spawn(upload(open(&session, &later).await, 16 * MB));
        }
        upload(open(&session, &check).await, 8 * MB).await;
        let took = best_echo(&mut ping).await;
        assert!(
            took < Duration::from_millis(50),
            "{count} stopped: {took:?}"
        );
    }
    assert!(writers.try_join_next().is_none(), "none was stopped");
    later.release();
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
}

/// Sixteen streams in both directions while either side rekeys after each megabyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rekeys_under_load() {
    let config = Config {
        rekey_bytes: Some(MB),
        ..Config::default()
    };
    let (sshd, session, _) = Sshd::session("RekeyLimit 1M", config, Options::default()).await;
    let source = Target::start(TargetBehavior::Send(6 * MB)).await;
    let check = Target::start(TargetBehavior::Check).await;
    let target = Target::start(TargetBehavior::Echo).await;
    let mut ping = open(&session, &target).await;
    let mut streams = JoinSet::new();
    for _ in 0..8 {
        let (down, up) = (open(&session, &source).await, open(&session, &check).await);
        streams.spawn(download(down, 6 * MB));
        streams.spawn(upload(up, 6 * MB));
    }
    while !streams.is_empty() {
        echo(&mut ping).await;
        while let Some(done) = streams.try_join_next() {
            done.unwrap();
        }
    }
    let rekeys = sshd.log().matches("rekey out after").count();
    assert!(rekeys > 20, "only {rekeys} rekeys");
}

/// Each rekey starts a new zlib stream in each direction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_restarts_with_each_rekey() {
    let config = Config {
        compression: vec!["zlib@openssh.com"],
        rekey_bytes: Some(MB / 2),
        ..Config::default()
    };
    let lines = "RekeyLimit 1M\nCompression yes";
    let (sshd, session, _) = Sshd::session(lines, config, Options::default()).await;
    assert_eq!(session.info().negotiated.compression_in, "zlib@openssh.com");
    let source = Target::start(TargetBehavior::Send(3 * MB)).await;
    let check = Target::start(TargetBehavior::Check).await;
    let mut streams = JoinSet::new();
    for _ in 0..4 {
        let (down, up) = (open(&session, &source).await, open(&session, &check).await);
        streams.spawn(download(down, 3 * MB));
        streams.spawn(upload(up, 3 * MB));
    }
    while let Some(done) = streams.join_next().await {
        done.unwrap();
    }
    let rekeys = sshd.log().matches("rekey out after").count();
    assert!(rekeys > 5, "only {rekeys} rekeys");
}
