//! KEXINIT (RFC 4253 §7.1): our offer, and what the two offers have in common.

use super::cipher::CipherSpec;
use super::types::Negotiated;
use crate::algorithm::Kind;
use crate::config::Config;
use crate::error::{Error, bounded};
use crate::wire::{Malformed, NameList, Reader, Writer};

pub(crate) const KEXINIT: u8 = 20;

const STRICT_CLIENT: &str = "kex-strict-c-v00@openssh.com";
const STRICT_SERVER: &str = "kex-strict-s-v00@openssh.com";
const EXT_INFO_CLIENT: &str = "ext-info-c";

/// Makes our KEXINIT. Only the first one has the markers of RFC 8308 §2.1 and of strict key exchange.
pub(super) fn offer(config: &Config, first: bool, cookie: [u8; 16]) -> Vec<u8> {
    // The markers are names in the list of key exchange methods (RFC 8308 §2.1); `common` never picks one, because the
    // configuration does not have them.
    let mut kex = config.kex.clone();
    if first {
        kex.extend([EXT_INFO_CLIENT, STRICT_CLIENT]);
    }
    let mut payload = vec![KEXINIT];
    payload.raw(&cookie);
    payload.name_list(&kex);
    payload.name_list(&config.host_keys);
    for list in [&config.ciphers, &config.macs, &config.compression] {
        payload.name_list(list);
        payload.name_list(list);
    }
    // Languages of both directions.
    payload.name_list::<&str>(&[]);
    payload.name_list::<&str>(&[]);
    // No guessed packet follows; reserved.
    payload.bool(false);
    payload.u32(0);
    payload
}

/// The fields of a KEXINIT.
struct KexInit<'a> {
    kex: NameList<'a>,
    host_keys: NameList<'a>,
    ciphers: [NameList<'a>; 2],
    macs: [NameList<'a>; 2],
    compression: [NameList<'a>; 2],
    guess_follows: bool,
}

impl<'a> KexInit<'a> {
    fn read(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        reader.u8()?;
        let _cookie: [u8; 16] = reader.array()?;
        let (kex, host_keys) = (reader.name_list()?, reader.name_list()?);
        let mut pair = || Ok([reader.name_list()?, reader.name_list()?]);
        let (ciphers, macs, compression) = (pair()?, pair()?, pair()?);
        let _languages = pair()?;
        let guess_follows = reader.bool()?;
        reader.u32()?;
        reader.end()?;
        Ok(Self {
            kex,
            host_keys,
            ciphers,
            macs,
            compression,
            guess_follows,
        })
    }
}

/// The result of the negotiation.
#[derive(Debug)]
pub(crate) struct Agreement {
    pub(crate) negotiated: Negotiated,
    /// Whether the server's next message is a wrong guess (RFC 4253 §7), which has to be ignored.
    pub(super) skip_guess: bool,
}

/// Negotiates the algorithms. `strict` is the result of the first key exchange for strict key exchange, `None` in the
/// first itself: the marker counts only there.
pub(crate) fn negotiate(
    config: &Config,
    payload: &[u8],
    strict: Option<bool>,
) -> Result<Agreement, Error> {
    let theirs = KexInit::read(payload)?;
    let kex = common(Kind::Kex, &config.kex, theirs.kex)?;
    let host_key = common(Kind::HostKey, &config.host_keys, theirs.host_keys)?;
    let [cipher_out, cipher_in] =
        common_in_both_directions(Kind::Cipher, &config.ciphers, theirs.ciphers)?;
    let [macs_out, macs_in] = theirs.macs;
    let mac_out = common_mac(config, cipher_out, macs_out)?;
    let mac_in = common_mac(config, cipher_in, macs_in)?;
    let [compression_out, compression_in] =
        common_in_both_directions(Kind::Compression, &config.compression, theirs.compression)?;
    // Our own marker is always in the first offer, so that the server's decides.
    let strict = strict.unwrap_or_else(|| theirs.kex.contains(STRICT_SERVER));
    // Both directions are checked: the attack needs only one of them.
    if !strict && !config.allow_terrapin {
        for (cipher, mac) in [(cipher_out, mac_out), (cipher_in, mac_in)] {
            if CipherSpec::find(cipher).is_some_and(|spec| spec.is_terrapin_vulnerable(mac)) {
                return Err(Error::Terrapin { cipher });
            }
        }
    }
    // RFC 4253 §7: a guess is right if both sides prefer the same kex method and host key algorithm.
    let guess_is_right = theirs.kex.iter().next() == config.kex.first().copied()
        && theirs.host_keys.iter().next() == config.host_keys.first().copied();
    Ok(Agreement {
        skip_guess: theirs.guess_follows && !guess_is_right,
        negotiated: Negotiated {
            kex,
            host_key,
            cipher_out,
            cipher_in,
            mac_out,
            mac_in,
            compression_out,
            compression_in,
            strict,
        },
    })
}

fn common_in_both_directions(
    kind: Kind,
    ours: &[&'static str],
    theirs: [NameList<'_>; 2],
) -> Result<[&'static str; 2], Error> {
    let [out, inward] = theirs;
    Ok([common(kind, ours, out)?, common(kind, ours, inward)?])
}

/// `None` for a cipher that authenticates by itself.
fn common_mac(
    config: &Config,
    cipher: &str,
    theirs: NameList<'_>,
) -> Result<Option<&'static str>, Error> {
    if CipherSpec::find(cipher).is_some_and(|spec| spec.is_aead()) {
        return Ok(None);
    }
    common(Kind::Mac, &config.macs, theirs).map(Some)
}

/// Bytes of the server's list that an error shows.
const MAX_SHOWN: usize = 1024;

/// The first of our names that the server has, too: the client's order decides (RFC 4253 §7.1).
fn common(kind: Kind, ours: &[&'static str], theirs: NameList<'_>) -> Result<&'static str, Error> {
    ours.iter()
        .find(|name| theirs.contains(name))
        .copied()
        .ok_or_else(|| Error::NoCommonAlgorithm {
            kind,
            ours: ours.join(","),
            theirs: shown_names(theirs.as_str()),
        })
}

/// The beginning of a list of algorithms, without the markers in it (RFC 8308 §2.1, strict key exchange).
fn shown_names(list: &str) -> String {
    let mut shown = String::new();
    for name in list.split(',') {
        // They are not algorithms: in an error they would look like something to configure.
        if name.starts_with("ext-info-") || name.starts_with("kex-strict-") {
            continue;
        }
        // A hostile list may have 256 KiB.
        if shown.len() > MAX_SHOWN {
            break;
        }
        if !shown.is_empty() {
            shown.push(',');
        }
        shown.push_str(name.get(..MAX_SHOWN).unwrap_or(name));
    }
    bounded(shown.as_bytes(), MAX_SHOWN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server_kexinit(kex: &str, cipher: &str, guess: bool) -> Vec<u8> {
        let mut payload = vec![KEXINIT];
        payload.raw(&[0; 16]);
        payload.string(kex);
        payload.string("ssh-ed25519");
        for list in [cipher, "hmac-sha2-256", "none"] {
            payload.string(list);
            payload.string(list);
        }
        payload.string("");
        payload.string("");
        payload.bool(guess);
        payload.u32(0);
        payload
    }

    fn negotiate_with(kex: &str, cipher: &str, guess: bool) -> Result<Agreement, Error> {
        negotiate(
            &Config::default(),
            &server_kexinit(kex, cipher, guess),
            None,
        )
    }

    #[test]
    fn our_order_decides() {
        let agreement = negotiate_with(
            "x,curve25519-sha256,mlkem768x25519-sha256",
            "aes128-ctr",
            false,
        );
        let negotiated = agreement.unwrap().negotiated;
        assert_eq!(negotiated.kex, "mlkem768x25519-sha256");
        assert_eq!(negotiated.mac_in, Some("hmac-sha2-256"));
        assert!(!negotiated.strict);
        let agreement =
            negotiate_with("curve25519-sha256", "aes128-gcm@openssh.com", false).unwrap();
        assert_eq!(agreement.negotiated.mac_in, None);
    }

    #[test]
    fn an_error_names_both_lists() {
        let error = negotiate_with("curve25519-sha256", "arcfour", false).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cipher") && text.contains("arcfour") && text.contains("aes128-ctr"));
    }

    #[test]
    fn a_wrong_guess_is_skipped_and_a_right_one_is_not() {
        let guess = |kex| negotiate_with(kex, "aes128-ctr", true).unwrap().skip_guess;
        assert!(guess("curve25519-sha256"));
        assert!(!guess("mlkem768x25519-sha256"));
        assert!(
            !negotiate_with("curve25519-sha256", "aes128-ctr", false)
                .unwrap()
                .skip_guess
        );
    }

    #[test]
    fn terrapin_is_refused_without_strict_key_exchange() {
        let chacha = "chacha20-poly1305@openssh.com";
        let refused = negotiate_with("curve25519-sha256", chacha, false);
        assert!(matches!(refused, Err(Error::Terrapin { .. })));
        let strict = format!("curve25519-sha256,{STRICT_SERVER}");
        assert!(
            negotiate_with(&strict, chacha, false)
                .unwrap()
                .negotiated
                .strict
        );
        let config = Config {
            allow_terrapin: true,
            ..Config::default()
        };
        assert!(
            negotiate(
                &config,
                &server_kexinit("curve25519-sha256", chacha, false),
                None
            )
            .is_ok()
        );
    }

    #[test]
    fn the_marker_counts_in_the_first_exchange_only() {
        let config = Config::default();
        let marked = server_kexinit(
            &format!("curve25519-sha256,{STRICT_SERVER}"),
            "aes128-ctr",
            false,
        );
        let later = negotiate(&config, &marked, Some(false)).unwrap();
        assert!(!later.negotiated.strict);
    }

    #[test]
    fn our_offer_can_be_parsed() {
        let payload = offer(&Config::default(), true, [1; 16]);
        let offer = KexInit::read(&payload).unwrap();
        assert!(offer.kex.contains(STRICT_CLIENT) && offer.kex.contains(EXT_INFO_CLIENT));
        let second = super::offer(&Config::default(), false, [1; 16]);
        assert!(!KexInit::read(&second).unwrap().kex.contains(STRICT_CLIENT));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = negotiate(&Config::default(), &bytes, None);
        }

        #[test]
        fn no_damaged_offer_panics(at in 0usize..200, byte: u8) {
            let mut payload = server_kexinit("curve25519-sha256", "aes128-ctr", false);
            let at = at % payload.len();
            payload[at] = byte;
            let _ = negotiate(&Config::default(), &payload, None);
        }
    }
}
