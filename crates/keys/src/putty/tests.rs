//! Keys as the real puttygen writes them, and malformed files.

use std::fs;
use std::path::Path;
use std::process::Command;

use ssh_key::LineEnding;
use ssh_key::private::Ed25519Keypair;

use super::*;

const PASSPHRASE: &str = "open sesame";

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap();
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {args:?}: {why}");
}

/// What puttygen makes of `key`, in the version and with the encryption that `params` and `locked` say.
fn ppk(dir: &Path, key: &str, params: &str, locked: bool) -> String {
    let (file, out, words) = (dir.join("key"), dir.join("key.ppk"), dir.join("words"));
    fs::write(&file, key).unwrap();
    fs::write(&words, if locked { PASSPHRASE } else { "" }).unwrap();
    let [file, out, words] = [&file, &out, &words].map(|path| path.to_str().unwrap());
    let to = ["-q", "-O", "private", "--ppk-param", params, "-o", out];
    run(
        "puttygen",
        &[&[file, "--new-passphrase", words][..], &to].concat(),
    );
    fs::read_to_string(out).unwrap()
}

fn ed25519(seed: &[u8; 32]) -> PrivateKey {
    let pair = Ed25519Keypair::from_seed(seed);
    PrivateKey::new(KeypairData::Ed25519(pair), "a key").unwrap()
}

fn text_of(key: &PrivateKey) -> String {
    key.to_openssh(LineEnding::LF).unwrap().to_string()
}

/// A seed that begins with `before` and ends with `after`.
fn seed(number: u16, before: &[u8], after: &[u8]) -> [u8; 32] {
    let random = digest::digest(&digest::SHA256, &number.to_be_bytes());
    let mut seed: [u8; 32] = random.as_ref().try_into().unwrap();
    seed[..before.len()].copy_from_slice(before);
    seed[32 - after.len()..].copy_from_slice(after);
    seed
}

#[track_caller]
fn assert_opens(text: &str, locked: bool, key: &PrivateKey) {
    let read = Ppk::read(text).unwrap();
    assert_eq!(read.is_locked(), locked, "{text}");
    assert_eq!(
        read.public(),
        key.public_key().to_bytes().unwrap(),
        "{text}"
    );
    let opened = read.open(if locked { PASSPHRASE } else { "" });
    let opened = opened.unwrap_or_else(|why| panic!("{why}: {text}"));
    assert_eq!(opened.key_data(), key.key_data(), "{text}");
    assert_eq!(opened.public_key().key_data(), key.public_key().key_data());
    assert_eq!(opened.comment(), key.comment());
}

#[test]
fn every_private_number_of_ed25519() {
    let dir = tempfile::tempdir().unwrap();
    let mut seeds = vec![
        seed(0, &[0], &[]),
        seed(1, &[0, 0x7f], &[]),
        seed(2, &[0, 0x80], &[]),
        seed(3, &[0, 0, 0], &[]),
        seed(4, &[0xff, 0xff], &[]),
        seed(5, &[0x80], &[]),
        seed(6, &[], &[0]),
        seed(7, &[], &[0, 0, 0]),
        seed(8, &[0], &[0]),
        seed(9, &[0x80], &[0]),
        seed(10, &[0; 31], &[1]),
        seed(11, &[1], &[0; 31]),
    ];
    let edges = seeds.len();
    seeds.extend((12..300).map(|number| seed(number, &[], &[])));
    for (at, seed) in seeds.iter().enumerate() {
        let key = ed25519(seed);
        let params = ["version=3", "version=2"][at % 2];
        assert_opens(&ppk(dir.path(), &text_of(&key), params, false), false, &key);
        if at < edges {
            let params = ["version=2", "version=3,memory=64,passes=2"][at % 2];
            assert_opens(&ppk(dir.path(), &text_of(&key), params, true), true, &key);
        }
    }
}

#[test]
fn an_ed25519_number_without_trailing_zeros_is_padded_at_its_end() {
    let seed = seed(0, &[0], &[0, 0]);
    let key = ed25519(&seed);
    let mut short = Vec::new();
    put_string(&mut short, &seed[..30]);
    let read = Ppk {
        version: Version::Three,
        kind: KeyKind::Ed25519,
        comment: String::new(),
        public: key.public_key().to_bytes().unwrap(),
        lock: None,
        private: Zeroizing::new(short),
        mac: Vec::new(),
    };
    let wire = read.wire().unwrap();
    let data = KeypairData::decode(&mut wire.as_slice()).unwrap();
    assert_eq!(&data, key.key_data());
}

#[test]
fn puttygen_files_of_every_type_version_and_key_derivation_open() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, bits) in [
        ("rsa", "2048"),
        ("ecdsa", "256"),
        ("ecdsa", "384"),
        ("ecdsa", "521"),
    ] {
        let file = dir.path().join(format!("{kind}{bits}"));
        let path = file.to_str().unwrap();
        let args = ["-q", "-t", kind, "-b", bits, "-N", "", "-C", "a key", "-f"];
        run("ssh-keygen", &[&args[..], &[path]].concat());
        let text = fs::read_to_string(&file).unwrap();
        let key = PrivateKey::from_openssh(&text).unwrap();
        for (params, locked) in [
            ("version=2", false),
            ("version=2", true),
            ("version=3", false),
            ("version=3,kdf=argon2id", true),
            ("version=3,kdf=argon2i,memory=64,passes=3", true),
            (
                "version=3,kdf=argon2d,memory=64,passes=100,parallelism=4",
                true,
            ),
        ] {
            assert_opens(&ppk(dir.path(), &text, params, locked), locked, &key);
        }
    }
}

/// One P-256 key in 256 has a private number of less than 32 bytes.
#[test]
fn a_short_ecdsa_number_is_padded() {
    let read = Ppk::read(SHORT_ECDSA).unwrap();
    let key = read.open("").unwrap();
    let KeypairData::Ecdsa(pair) = key.key_data() else {
        panic!("{key:?}");
    };
    assert_eq!(pair.private_key_bytes()[..2], [0, 0x5a]);
}

#[test]
fn a_wrong_passphrase_is_distinguished_from_a_damaged_file() {
    let dir = tempfile::tempdir().unwrap();
    let key = text_of(&ed25519(&seed(0, &[], &[])));
    for params in ["version=2", "version=3,memory=64,passes=2"] {
        let text = ppk(dir.path(), &key, params, true);
        for wrong in ["", "open sesame ", "Open sesame"] {
            let why = Ppk::read(&text).unwrap().open(wrong).unwrap_err();
            assert_eq!(why, DecryptError::WrongPassphrase, "{wrong:?}");
        }
        let text = ppk(dir.path(), &key, params, false);
        let text = text.replace("Comment: a key", "Comment: b key");
        let why = Ppk::read(&text).unwrap().open("").unwrap_err();
        assert_eq!(
            why.to_string(),
            "the file is damaged: its content does not match `Private-MAC`"
        );
    }
}

#[test]
fn other_line_endings_and_a_missing_space_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut key = ed25519(&seed(0, &[], &[]));
    key.set_comment("");
    let text = ppk(dir.path(), &text_of(&key), "version=3", false);
    assert_opens(&text.replace('\n', "\r\n"), false, &key);
    assert_opens(&text.replace(" \n", "\n"), false, &key);
    assert_opens(&format!("\n{text}\n"), false, &key);
}

#[test]
fn truncated_or_modified_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = text_of(&ed25519(&seed(0, &[], &[])));
    let text = ppk(dir.path(), &key, "version=3,memory=64,passes=1", true);
    for cut in 0..text.trim_end().len() {
        assert!(Ppk::read(&text[..cut]).is_err(), "{}", &text[..cut]);
    }
    for (from, to, why) in [
        ("File-3", "File-1", "version 1 of PuTTY's format"),
        ("File-3: ssh-ed25519", "File-3: ssh-dss", "type ssh-dss"),
        ("File-3: ssh-ed25519", "File-3: ssh-rsa", "not of the type"),
        ("aes256-cbc", "rot13", "the encryption rot13"),
        ("Comment: ", "Comments: ", "the line `Comment`"),
        ("Lines: 2", "Lines: x", "`Public-Lines` is not a number"),
        (
            "Lines: 2",
            "Lines: 4294967295",
            "what follows `Public-Lines`",
        ),
        ("Argon2id", "scrypt", "the key derivation scrypt"),
        ("Memory: 64", "Memory: 262145", "262145 KiB of memory"),
        ("Memory: 64", "Memory: 1", "Argon2 refuses its parameters"),
        ("Passes: 1", "Passes: 262145", "262145 passes"),
        ("Passes: 1", "Passes: 0", "Argon2 refuses its parameters"),
        ("Parallelism: 1", "Parallelism: 9", "9 lanes"),
        ("Salt: ", "Salt: x", "`Argon2-Salt` is not hexadecimal"),
        ("MAC: ", "MAC: x", "`Private-MAC` is not hexadecimal"),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        let error = Ppk::read(&text.replacen(from, to, 1)).err().unwrap();
        assert!(error.contains(why), "{to}: {error}");
    }
}

const SHORT_ECDSA: &str = "\
PuTTY-User-Key-File-3: ecdsa-sha2-nistp256
Encryption: none
Comment: short
Public-Lines: 3
AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBOcFSH7TrT1+
RbWN/JxqXvV9xuSUcoFQUNDWSniN74GBx/WYh2EbkztcUHauc0ej64MePBNTf1zS
u3fOQPt/9Bg=
Private-Lines: 1
AAAAH1oBAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4=
Private-MAC: 5fcc55f28753910254df18fa204b6d356d705ad005ac9e02649126c37b17ed7a
";
