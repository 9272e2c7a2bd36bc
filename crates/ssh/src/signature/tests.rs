//! Certificates of ssh-keygen's making, and signatures made with the library.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use proptest::prelude::*;
use russh::keys::ssh_key::Certificate as Foreign;

use super::*;

/// `ssh-keygen -s ed25519 -h -n 'db.example,*.lab.example' -V 20200101:20400101 -z 7`, ecdsa.
const HOST: &str = concat!(
    "AAAAKGVjZHNhLXNoYTItbmlzdHAyNTYtY2VydC12MDFAb3BlbnNzaC5jb20AAAAgo3zxTeFzz4fXBhIa",
    "y2go/UpnjSAoYt1u2O6mxN1kpwIAAAAIbmlzdHAyNTYAAABBBLpxoK4g/5nEubC0GHVzBrcdZDyKTBXc",
    "ICQhEWUP2tpwApTxz2+4U5lfMVnL1O1+Tp5Ue2nlFsCTACwcS9LLW+IAAAAAAAAABwAAAAIAAAAFaG9z",
    "dDEAAAAfAAAACmRiLmV4YW1wbGUAAAANKi5sYWIuZXhhbXBsZQAAAABeC+EAAAAAAIOqfoAAAAAAAAAA",
    "AAAAAAAAAAAzAAAAC3NzaC1lZDI1NTE5AAAAID59TrKKBNWszAYlkgr8hxlXPievk5u4GpvANkuV5H4M",
    "AAAAUwAAAAtzc2gtZWQyNTUxOQAAAEBXutX8/8SOJd94jTuLtcpwWx0Rb3zI8HRvfq2kdEI8IvFBZLg1",
    "WC77aIvGY73yGmaqBDHCyUN/KWungwrQh24C",
);

/// `ssh-keygen -s rsa -t rsa-sha2-512 -n alice`, ed25519.
const USER: &str = concat!(
    "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIBQih23FJe+MSa6LICcaE80HAVVq",
    "lggmQ+wXCxWiRNLlAAAAID59TrKKBNWszAYlkgr8hxlXPievk5u4GpvANkuV5H4MAAAAAAAAAAAAAAAB",
    "AAAABXVzZXIxAAAACQAAAAVhbGljZQAAAAAAAAAA//////////8AAAAAAAAAggAAABVwZXJtaXQtWDEx",
    "LWZvcndhcmRpbmcAAAAAAAAAF3Blcm1pdC1hZ2VudC1mb3J3YXJkaW5nAAAAAAAAABZwZXJtaXQtcG9y",
    "dC1mb3J3YXJkaW5nAAAAAAAAAApwZXJtaXQtcHR5AAAAAAAAAA5wZXJtaXQtdXNlci1yYwAAAAAAAAAA",
    "AAABFwAAAAdzc2gtcnNhAAAAAwEAAQAAAQEAxO+Y5nzc19ss7tOrUsJ5DzsyLK2bGBfEUZHKLGnClsUK",
    "ErKDTdEqmTScMue/xgKwlaLusqVbpXIVxsk9FjmOLWvPrdcp/uGWNrmyMXIOhISEsz/rYGpFprqzgqpG",
    "zrpXKDa606SXZj4wq8doPs3KUabuonhsMSzGJMhOSDuxg4XdWWIoiESQ+zpPTpBp6KhlW1kOOu75m+Bd",
    "dBt/6TPox8xM5QevAfU/+xVBewMIlAPOBpchB7L9i+wsJ5S9lAPEYZoQLdV4R1xl1Lj7Zh+MXIEBM62g",
    "avQFN5bnH/CHULulWAnIT6Le1jmZhdEZNpRGYkPISh1viq1efL3gACc5nQAAARQAAAAMcnNhLXNoYTIt",
    "NTEyAAABAElcTZJ2kf5GRrQGLpS20Vco2i9CpnJKYBXbV9D9/0TY6bBknyFtYF9XzNeo5kRjEstd0yhg",
    "JTqjJ5Yl4pwpimEpcI0r2F1BoeFo9pR/yeYgjQdFfNvXJ59vb6XOzrdkhoRtIlJIs+lrnN+Z3RFZqEf5",
    "8VdU7JCOBk6L+RjHQCv5Iqa/ZFkMvK5mmbDd8dXvY/6b7SgCz5E//8uArELsao9qcEUsN28cXvag+ax/",
    "fZIuN5k6ntrDmQxcr42THlvYYHXYiSolEeBneQ2BdtEZ8jf0yI1smO87l5GK/PfjsAqF6wbT15qWKuDe",
    "uogX9ySjSB651YwD9/kw3WOWC/x23S8=",
);

const IN_TIME: u64 = 1_700_000_000;

fn blob(kind: &str, text: &str) -> Vec<u8> {
    let foreign = Foreign::from_openssh(&format!("{kind} {text}")).unwrap();
    foreign.to_bytes().unwrap()
}

fn host() -> Vec<u8> {
    blob("ecdsa-sha2-nistp256-cert-v01@openssh.com", HOST)
}

fn user() -> Vec<u8> {
    blob("ssh-ed25519-cert-v01@openssh.com", USER)
}

#[test]
fn a_hosts_certificate_is_read_and_its_claims_checked() {
    let certificate = Certificate::read(&host(), false).unwrap();
    assert_eq!(
        (certificate.serial, certificate.key_id.as_str()),
        (7, "host1")
    );
    assert_eq!(certificate.key.algorithm().as_str(), "ecdsa-sha2-nistp256");
    assert_eq!(certificate.authority.algorithm().as_str(), "ssh-ed25519");
    let check = |host, now| certificate.check_host(host, now);
    assert_eq!(check("db.example", IN_TIME), Ok(()));
    assert_eq!(check("DB.Example", IN_TIME), Ok(()));
    // A principal is no pattern; ssh has it so.
    for other in ["a.lab.example", "db.example.com", "*", ""] {
        let refused = check(other, IN_TIME);
        assert!(
            matches!(refused, Err(CertificateFault::Principal { .. })),
            "{other}"
        );
    }
    assert_eq!(
        check("db.example", certificate.valid_after - 1),
        Err(CertificateFault::NotYet)
    );
    assert_eq!(
        check("db.example", certificate.valid_before),
        Err(CertificateFault::Expired)
    );
}

/// What a certificate says, and who signs it.
struct Claims<'a> {
    principals: &'a [&'a str],
    critical: &'a [&'a str],
    authority: Option<Vec<u8>>,
    signed_with: &'a str,
}

impl Default for Claims<'_> {
    fn default() -> Self {
        Self {
            principals: &["db.example"],
            critical: &[],
            authority: None,
            signed_with: "ssh-ed25519",
        }
    }
}

impl Claims<'_> {
    /// A host's certificate, its signature right by an Ed25519 key whatever it is said to be.
    fn certificate(&self) -> Vec<u8> {
        let authority = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let list = |names: &[&str], with_data: bool| {
            let mut list = Vec::new();
            for name in names {
                list.string(name);
                if with_data {
                    list.string("");
                }
            }
            list
        };
        let mut blob = plain(&[b"ssh-ed25519-cert-v01@openssh.com", &[1; 32], &[7; 32]]);
        blob.u64(1);
        blob.u32(2);
        blob.string("id");
        blob.string(list(self.principals, false));
        blob.u64(0);
        blob.u64(u64::MAX);
        blob.string(list(self.critical, true));
        blob.string("");
        blob.string("");
        let own = plain(&[b"ssh-ed25519", authority.public_key().as_ref()]);
        blob.string(self.authority.as_ref().unwrap_or(&own));
        let signature = authority.sign(&blob);
        blob.string(plain(&[self.signed_with.as_bytes(), signature.as_ref()]));
        blob
    }
}

#[test]
fn without_principals_it_is_for_every_host_and_no_option_is_passed_over() {
    let check = |claims: Claims<'_>| {
        let certificate = Certificate::read(&claims.certificate(), false).unwrap();
        certificate.check_host("db.example", IN_TIME)
    };
    assert_eq!(check(Claims::default()), Ok(()));
    let all = Claims {
        principals: &[],
        ..Claims::default()
    };
    assert_eq!(check(all), Ok(()));
    for principal in ["*", "*.example", "db.exampl?", "DB.example", ""] {
        let one = Claims {
            principals: &[principal],
            ..Claims::default()
        };
        assert!(
            matches!(check(one), Err(CertificateFault::Principal { .. })),
            "{principal}"
        );
    }
    for option in ["force-command", "verify-required", "x@y", ""] {
        let critical = Claims {
            critical: &[option],
            ..Claims::default()
        };
        assert_eq!(
            check(critical),
            Err(CertificateFault::CriticalOption(option.to_owned()))
        );
    }
}

#[test]
fn authorities_are_plain_keys_and_do_not_sign_by_sha_1() {
    let nested = Claims {
        authority: Some(Claims::default().certificate()),
        signed_with: "ssh-ed25519-cert-v01@openssh.com",
        ..Claims::default()
    };
    assert!(matches!(
        Certificate::read(&nested.certificate(), true),
        Err(Refused::Type(_))
    ));
    let rsa = plain(&[b"ssh-rsa", &[1, 0, 1], &[0x7f; 256]]);
    let by = |signed_with, sha1| {
        let claims = Claims {
            authority: Some(rsa.clone()),
            signed_with,
            ..Claims::default()
        };
        Certificate::read(&claims.certificate(), sha1).unwrap_err()
    };
    assert_eq!(by("ssh-rsa", false), Refused::Algorithm("ssh-rsa".into()));
    assert_eq!(by("ssh-rsa", true), Refused::Signature);
    assert_eq!(by("rsa-sha2-512", false), Refused::Signature);
    assert_eq!(by("ssh-ed25519", false), Refused::Type("ssh-rsa".into()));
}

#[test]
fn a_users_certificate_is_no_hosts() {
    let certificate = Certificate::read(&user(), false).unwrap();
    assert_eq!(
        certificate.check_host("alice", IN_TIME),
        Err(CertificateFault::NotHost)
    );
}

#[test]
fn a_certificate_with_any_byte_changed_is_refused() {
    for original in [host(), user()] {
        for at in 0..original.len() {
            let mut changed = original.clone();
            changed[at] ^= 1;
            assert!(Certificate::read(&changed, false).is_err(), "byte {at}");
        }
        for length in 0..original.len() {
            assert!(Certificate::read(&original[..length], false).is_err());
        }
    }
}

fn plain(parts: &[&[u8]]) -> Vec<u8> {
    let mut blob = Vec::new();
    for part in parts {
        blob.string(part);
    }
    blob
}

#[test]
fn security_keys_sign_with_flags_and_counter() {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let name = "sk-ssh-ed25519@openssh.com";
    let key = plain(&[name.as_bytes(), pair.public_key().as_ref(), b"ssh:"]);
    let mut signed = Hash::Sha256.over(&[b"ssh:"]).to_vec();
    signed.raw(&[1, 0, 0, 0, 9]);
    signed.raw(&Hash::Sha256.over(&[b"message"]));
    let mut signature = plain(&[name.as_bytes(), pair.sign(&signed).as_ref()]);
    signature.raw(&[1, 0, 0, 0, 9]);
    assert_eq!(verify(name, &key, &signature, b"message"), Ok(()));
    assert_eq!(
        verify(name, &key, &signature, b"massage"),
        Err(Refused::Signature)
    );
    *signature.last_mut().unwrap() = 8;
    assert_eq!(
        verify(name, &key, &signature, b"message"),
        Err(Refused::Signature)
    );
    signature.truncate(signature.len() - 5);
    assert_eq!(
        verify(name, &key, &signature, b"message"),
        Err(Refused::Malformed)
    );
}

#[test]
fn ecdsa_numbers_may_be_short_or_signed() {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).unwrap();
    let name = "ecdsa-sha2-nistp256";
    let key = plain(&[name.as_bytes(), b"nistp256", pair.public_key().as_ref()]);
    // About one in 128 has a number with a leading zero byte.
    for _ in 0..600 {
        let fixed = pair.sign(&random, b"message").unwrap();
        let mut numbers = Vec::new();
        numbers.mpint(&fixed.as_ref()[..32]);
        numbers.mpint(&fixed.as_ref()[32..]);
        let signature = plain(&[name.as_bytes(), &numbers]);
        assert_eq!(verify(name, &key, &signature, b"message"), Ok(()));
    }
    let wrong_curve = plain(&[name.as_bytes(), b"nistp384", pair.public_key().as_ref()]);
    assert!(verify(name, &wrong_curve, &[], b"message").is_err());
}

#[test]
fn keys_and_signatures_of_other_algorithms_are_refused() {
    let ed25519 = plain(&[b"ssh-ed25519", &[7; 32]]);
    let refused = verify("rsa-sha2-512", &ed25519, &[], b"");
    assert_eq!(refused, Err(Refused::Type("ssh-ed25519".to_owned())));
    let short = plain(&[b"ssh-rsa", &[1, 0, 1], &[0x7f; 128]]);
    let signature = plain(&[b"rsa-sha2-512", &[1; 128]]);
    assert_eq!(
        verify("rsa-sha2-512", &short, &signature, b""),
        Err(Refused::Short(1024))
    );
    let sha1 = plain(&[b"ssh-rsa", &[1; 128]]);
    let refused = verify("rsa-sha2-512", &short, &sha1, b"");
    assert_eq!(refused, Err(Refused::Algorithm("ssh-rsa".to_owned())));
}

proptest! {
    #[test]
    fn no_bytes_panic(key: Vec<u8>, signature: Vec<u8>, which in 0usize..8) {
        let name = crate::algorithm::Kind::HostKey.defaults()[which];
        let _ = verify(name, &key, &signature, b"message");
        let prefixed = [&plain(&[key_type(name).as_bytes()])[..], &key].concat();
        let signature = [&plain(&[name.as_bytes()])[..], &signature].concat();
        let _ = verify(name, &prefixed, &signature, b"message");
        let _ = Certificate::read(&key, true);
    }
}
