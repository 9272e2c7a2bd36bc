//! When new keys are made: by traffic, by age, and the time limit of a key exchange in progress (RFC 4253 §9).

use std::time::{Duration, Instant};

use super::Transport;
use super::exchange::cipher_spec;
use super::types::Negotiated;
use crate::config::Config;
use crate::error::Error;

/// Lower bound of the configured rekey limit, in bytes: below it the key exchanges themselves would make the next one
/// due.
const MIN_REKEY_BYTES: u64 = 1024;
/// Packets that one key may protect: the 32-bit sequence number must not repeat (RFC 4344 §3.1).
const MAX_PACKETS: u64 = 1 << 31;

/// When new keys are due.
#[derive(Debug, Clone, Copy)]
pub(super) struct RekeyLimits {
    /// Bytes in one direction, under the current keys.
    pub(super) bytes: u64,
    /// Age of the keys. `None` for no limit.
    pub(super) time: Option<Duration>,
}

impl RekeyLimits {
    /// Limits before the first keys: new keys are never due.
    pub(super) fn unlimited(config: &Config) -> Self {
        Self {
            bytes: u64::MAX,
            time: config.rekey_time,
        }
    }

    /// Limits for the negotiated ciphers: the configured ones, within what the ciphers allow.
    pub(super) fn new(config: &Config, negotiated: &Negotiated) -> Result<Self, Error> {
        // The directions may have different ciphers, but an exchange renews both: the smaller limit decides.
        let cipher_limit = cipher_spec(negotiated.cipher_out)?
            .byte_limit()
            .min(cipher_spec(negotiated.cipher_in)?.byte_limit());
        Ok(Self {
            bytes: config
                .rekey_bytes
                .unwrap_or(cipher_limit)
                // RekeyLimit may ask for new keys earlier, never later than the cipher is safe.
                .clamp(MIN_REKEY_BYTES, cipher_limit),
            time: config.rekey_time,
        })
    }
}

impl Transport {
    pub(super) fn on_timeout(&mut self) -> Result<(), Error> {
        match &self.exchange {
            Some(exchange) => match exchange.deadline() {
                // Without it a server could hold the session back for ever: no channel data is sent while keys are
                // exchanged.
                Some(deadline) if deadline <= self.now => Err(Error::Timeout("the key exchange")),
                _ => Ok(()),
            },
            None => {
                if self.rekey_is_due(self.now) {
                    self.start_exchange();
                }
                Ok(())
            }
        }
    }

    /// When new keys are due by age. `None` without an age limit, and before authentication.
    pub(super) fn rekey_at(&self) -> Option<Instant> {
        // OpenSSH does not rekey before authentication either.
        let time = self.rekey_limits.time.filter(|_| self.authenticated)?;
        self.keyed_at.checked_add(time)
    }

    /// Whether new keys are due: never before authentication, as in OpenSSH.
    pub(super) fn rekey_is_due(&self, now: Instant) -> bool {
        let used_up = [self.reader.usage, self.writer.usage]
            .iter()
            // Each direction by itself: they have separate keys. Small packets reach the packet limit long before the
            // byte limit.
            .any(|usage| usage.bytes >= self.rekey_limits.bytes || usage.packets >= MAX_PACKETS);
        self.authenticated && (used_up || self.rekey_at().is_some_and(|at| at <= now))
    }
}
