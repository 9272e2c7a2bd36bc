# Short names for the project's own scripts. `just` lists them.

_list:
    @just --list

# Everything that a change must pass.
check:
    .ci/run

# The whole test suite, or the tests whose names match.
test *FILTER:
    tests/run {{FILTER}}

# Benchmarks of pure code (divan).
bench *ARGS:
    cargo bench -p tunneld-benches {{ARGS}}

# Paired figures against ssh (needs a quiet machine).
figures *ARGS:
    tests/bench {{ARGS}}

# Fuzzes one target; needs cargo-fuzz and a nightly toolchain.
fuzz TARGET *ARGS:
    cargo +nightly fuzz run {{TARGET}} {{ARGS}}

# The demo: an SSH server, a page and the daemon in a temporary home.
demo:
    cargo run -p tunneld -- demo

# Wording figures, for information.
language:
    .ci/language
