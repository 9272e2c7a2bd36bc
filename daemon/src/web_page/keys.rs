//! The keys of the web page. Pure: the caller passes the time and the random bytes.

use std::fmt;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// How long a one-time key is valid.
const ONE_TIME_LIFE: Duration = Duration::from_secs(60);
/// How long a session key is valid.
const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Keys of each kind that are valid at the same time. The oldest makes room for a new one.
const MAX_KEYS: usize = 32;
/// Random bytes of a key.
const KEY_BYTES: usize = 32;

/// A key. `Debug` does not show it.
#[derive(Clone)]
pub(super) struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    pub(super) fn new(random: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// Returns the key as text, for the one client that gets it.
    pub(super) fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64UrlUnpadded::encode_string(&*self.0))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; KEY_BYTES];
        let decoded = Base64UrlUnpadded::decode(text, &mut bytes).ok()?.len();
        (decoded == KEY_BYTES).then(|| Self::new(bytes))
    }

    /// Compares in a time that does not depend on the bytes.
    fn is_same(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&*self.0, &*other.0).is_ok()
    }
}

/// The keys that are valid now.
#[derive(Debug, Default)]
pub(super) struct Keys {
    one_time: Vec<(Key, Instant)>,
    sessions: Vec<(Key, Instant)>,
}

impl Keys {
    /// Adds a one-time key.
    pub(super) fn add_one_time(&mut self, key: Key, now: Instant) {
        add(&mut self.one_time, key, now + ONE_TIME_LIFE);
    }

    /// Trades a one-time key for the session key `session`. Returns false if the key is unknown, used or too old.
    pub(super) fn trade(&mut self, text: &str, session: Key, now: Instant) -> bool {
        let Some(index) = find(&self.one_time, text, now) else {
            return false;
        };
        self.one_time.remove(index);
        add(&mut self.sessions, session, now + SESSION_LIFE);
        true
    }

    /// Returns whether the text is a session key.
    pub(super) fn has_session(&self, text: &str, now: Instant) -> bool {
        find(&self.sessions, text, now).is_some()
    }
}

fn add(keys: &mut Vec<(Key, Instant)>, key: Key, valid_until: Instant) {
    if keys.len() >= MAX_KEYS {
        keys.remove(0);
    }
    keys.push((key, valid_until));
}

fn find(keys: &[(Key, Instant)], text: &str, now: Instant) -> Option<usize> {
    let wanted = Key::parse(text)?;
    keys.iter()
        .position(|(key, valid_until)| key.is_same(&wanted) && now < *valid_until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new([byte; KEY_BYTES])
    }

    #[test]
    fn a_one_time_key_is_traded_once_and_within_a_minute() {
        let (mut keys, now) = (Keys::default(), Instant::now());
        keys.add_one_time(key(1), now);
        let text = key(1).reveal();
        assert!(!keys.has_session(&text, now), "not a session key");
        assert!(!keys.trade(&key(2).reveal(), key(3), now));
        assert!(!keys.trade("", key(3), now) && !keys.trade("x y", key(3), now));
        assert!(keys.trade(&text, key(3), now));
        assert!(!keys.trade(&text, key(4), now), "used");
        assert!(keys.has_session(&key(3).reveal(), now));
        keys.add_one_time(key(5), now);
        let late = now + ONE_TIME_LIFE;
        assert!(!keys.trade(&key(5).reveal(), key(6), late));
    }

    #[test]
    fn a_session_ends_after_twelve_hours_and_old_ones_make_room() {
        let (mut keys, now) = (Keys::default(), Instant::now());
        for number in 0..40 {
            keys.add_one_time(key(number), now);
            assert!(keys.trade(&key(number).reveal(), key(100 + number), now));
        }
        assert!(!keys.has_session(&key(100).reveal(), now), "the oldest");
        assert!(keys.has_session(&key(139).reveal(), now));
        assert!(!keys.has_session(&key(139).reveal(), now + SESSION_LIFE));
    }

    #[test]
    fn debug_does_not_show_a_key() {
        let mut keys = Keys::default();
        keys.add_one_time(key(65), Instant::now());
        assert!(!format!("{keys:?}").contains("65"));
    }
}
