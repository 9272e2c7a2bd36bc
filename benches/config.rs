//! Parsing a configuration file of 100 tunnels, without resolving them: no file is read and no `ssh -G` runs.

use std::fmt::Write as _;

use divan::Bencher;
use divan::counter::BytesCount;
use tunneld_config::parse::file;

const TUNNELS: u16 = 100;

fn main() {
    divan::main();
}

/// A file with `[defaults]` and 100 tunnels of three forwards each.
fn text() -> String {
    let mut text = String::from("[defaults]\nserver_alive_interval = 15\n");
    for n in 0..TUNNELS {
        let _ = write!(
            text,
            "\n[tunnel.tunnel-{n}]\nhost = \"deploy@host-{n}.example.org\"\ntags = [\"work\", \"eu\"]\n\
             local = [\"{}:localhost:5432\", \"{}:localhost:6379\"]\ndynamic = [\"{}\"]\n",
            10_000 + n,
            20_000 + n,
            30_000 + n,
        );
    }
    text
}

#[divan::bench]
fn parse_100_tunnels(bencher: Bencher) {
    let text = text();
    // What is measured is a file without errors.
    let (parsed, diagnostics) = file::parse(0, &text);
    assert!(diagnostics.is_empty(), "{diagnostics:?}");
    assert_eq!(parsed.tunnels.len(), usize::from(TUNNELS));
    bencher
        .counter(BytesCount::of_str(&text))
        .bench_local(|| file::parse(0, divan::black_box(&text)));
}
