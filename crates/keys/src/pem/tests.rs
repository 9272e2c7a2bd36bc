//! Key files in every format and encryption that ssh-keygen and openssl write, and what editors make of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rsa::signature::Verifier as _;
use ssh_key::Signature;

use super::*;
use crate::private_key::{decrypt, inspect};

const PASSPHRASE: &str = "open sesame";

/// A folder with plain keys, each as its own tool writes it, and what their public halves are.
struct Bench {
    dir: tempfile::TempDir,
}

const SOURCES: [&str; 5] = ["rsa", "p256", "p384", "p521", "ed25519"];

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let done = Command::new(program).args(args).output().unwrap();
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {args:?}: {why}");
    done.stdout
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, args) in [
            ("rsa", ["-t", "rsa", "-b", "2048"]),
            ("p256", ["-t", "ecdsa", "-b", "256"]),
            ("p384", ["-t", "ecdsa", "-b", "384"]),
            ("p521", ["-t", "ecdsa", "-b", "521"]),
        ] {
            let path = bench.path(name);
            let to = ["-q", "-m", "PEM", "-N", "", "-f", path.to_str().unwrap()];
            run("ssh-keygen", &[&args[..], &to].concat());
        }
        let ed25519 = bench.path("ed25519");
        let ed25519 = ed25519.to_str().unwrap();
        run(
            "openssl",
            &["genpkey", "-algorithm", "ed25519", "-out", ed25519],
        );
        let der = run(
            "openssl",
            &["pkey", "-in", ed25519, "-pubout", "-outform", "DER"],
        );
        let mut key = Vec::new();
        crate::wire::put_string(&mut key, b"ssh-ed25519");
        crate::wire::put_string(&mut key, &der[der.len() - 32..]);
        let line = format!("ssh-ed25519 {}\n", Base64::encode_string(&key));
        fs::write(bench.path("ed25519.pub"), line).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// What openssl makes of a key.
    fn openssl(&self, source: &str, args: &[&str]) -> String {
        let (from, to) = (self.path(source), self.path("made"));
        let pass = format!("pass:{PASSPHRASE}");
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        let files = ["-in", from, "-out", to, "-passout", &pass];
        run("openssl", &[args, &files].concat());
        self.text("made")
    }

    /// What ssh-keygen makes of a key, changing it in place.
    fn keygen(&self, source: &str, format: &[&str], passphrase: &str) -> String {
        let file = self.path("made");
        fs::copy(self.path(source), &file).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let args = [
            "-q",
            "-p",
            "-P",
            "",
            "-N",
            passphrase,
            "-f",
            file.to_str().unwrap(),
        ];
        run("ssh-keygen", &[&args[..], format].concat());
        self.text("made")
    }

    fn public(&self, source: &str) -> String {
        let text = self.text(&format!("{source}.pub"));
        text.split_whitespace().nth(1).unwrap().to_owned()
    }

    #[track_caller]
    fn assert_plain(&self, source: &str, text: &str, how: &str) {
        let found = inspect(text).unwrap_or_else(|why| panic!("{source} {how}: {why}"));
        let key = found
            .key
            .unwrap_or_else(|| panic!("{source} {how} is locked"));
        assert_eq!(
            Base64::encode_string(&key.public_key().to_bytes().unwrap()),
            self.public(source),
            "{source} {how}"
        );
        let algorithm = key.algorithm().to_string();
        let signature =
            crate::sign(&key, b"data", &algorithm.replace("ssh-rsa", "rsa-sha2-512")).unwrap();
        let signature = Signature::try_from(&signature[..]).unwrap();
        let public = key.public_key().key_data();
        public.verify(b"data", &signature).unwrap();
    }

    #[track_caller]
    fn assert_locked(&self, source: &str, text: &str, how: &str) {
        let found = inspect(text).unwrap_or_else(|why| panic!("{source} {how}: {why}"));
        assert!(found.key.is_none(), "{source} {how} is not locked");
        for wrong in ["", "open sesame ", "Open sesame"] {
            assert_eq!(
                decrypt(text, wrong).unwrap_err(),
                DecryptError::WrongPassphrase,
                "{source} {how}"
            );
        }
        let key = decrypt(text, PASSPHRASE).unwrap_or_else(|why| panic!("{source} {how}: {why}"));
        assert_eq!(
            Base64::encode_string(&key.public_key().to_bytes().unwrap()),
            self.public(source),
            "{source} {how}"
        );
    }
}

const LEGACY: [&str; 4] = ["-provider", "default", "-provider", "legacy"];

#[test]
fn openssls_old_encryption_opens() {
    let bench = Bench::new();
    for source in ["rsa", "p256", "p384", "p521"] {
        let tool: &[&str] = match source {
            "rsa" => &["rsa", "-traditional"],
            _ => &["ec"],
        };
        bench.assert_plain(source, &bench.openssl(source, tool), "PEM");
        for cipher in ["-aes128", "-aes192", "-aes256", "-des3", "-des"] {
            let made = bench.openssl(source, &[tool, &[cipher], &LEGACY].concat());
            assert!(made.contains("DEK-Info"), "{made}");
            bench.assert_locked(source, &made, cipher);
        }
        let made = bench.keygen(source, &["-m", "PEM"], PASSPHRASE);
        assert!(made.contains("DEK-Info"), "{made}");
        bench.assert_locked(source, &made, "ssh-keygen -m PEM");
    }
}

#[test]
fn pkcs8_opens() {
    let bench = Bench::new();
    for source in SOURCES {
        bench.assert_plain(source, &bench.openssl(source, &["pkey"]), "PKCS#8");
        for cipher in [
            "aes-128-cbc",
            "aes-192-cbc",
            "aes-256-cbc",
            "des3",
            "des-cbc",
        ] {
            for prf in ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512"] {
                let prf = format!("hmacWith{prf}");
                let args = ["pkcs8", "-topk8", "-v2", cipher, "-v2prf", &prf];
                let made = bench.openssl(source, &[&args[..], &LEGACY].concat());
                bench.assert_locked(source, &made, &format!("{cipher} {prf}"));
            }
        }
        let made = bench.openssl(source, &["pkcs8", "-topk8", "-scrypt"]);
        bench.assert_locked(source, &made, "scrypt");
        for old in ["PBE-MD5-DES", "PBE-SHA1-DES"] {
            let args = ["pkcs8", "-topk8", "-v1", old];
            let made = bench.openssl(source, &[&args[..], &LEGACY].concat());
            bench.assert_locked(source, &made, old);
        }
        let why = inspect(&bench.openssl(source, &["pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES"]));
        let why = why.err().unwrap();
        assert!(why.contains("not supported (`openssl pkey"), "{why}");
        if source != "ed25519" {
            let made = bench.keygen(source, &["-m", "PKCS8"], PASSPHRASE);
            bench.assert_locked(source, &made, "ssh-keygen -m PKCS8");
        }
    }
}

#[test]
fn openssh_opens_with_every_cipher() {
    let bench = Bench::new();
    let own = bench.path("own");
    let own = own.to_str().unwrap();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", own]);
    for source in ["rsa", "p256", "p384", "p521", "own"] {
        bench.assert_plain(source, &bench.keygen(source, &[], ""), "OpenSSH");
        for cipher in [
            "3des-cbc",
            "aes128-cbc",
            "aes192-cbc",
            "aes256-cbc",
            "aes128-ctr",
            "aes192-ctr",
            "aes256-ctr",
            "aes128-gcm@openssh.com",
            "aes256-gcm@openssh.com",
            "chacha20-poly1305@openssh.com",
        ] {
            let made = bench.keygen(source, &["-a", "1", "-Z", cipher], PASSPHRASE);
            bench.assert_locked(source, &made, cipher);
        }
    }
}

#[test]
fn changes_by_text_editors_do_no_harm() {
    let bench = Bench::new();
    let params = run("openssl", &["ecparam", "-name", "prime256v1"]);
    let params = String::from_utf8(params).unwrap();
    let files = [
        ("rsa", bench.text("rsa")),
        ("p256", params + &bench.text("p256")),
        ("ed25519", bench.text("ed25519")),
        (
            "rsa",
            format!("Bag Attributes\n    localKeyID: 01\n{}", bench.text("rsa")),
        ),
        ("p384", bench.keygen("p384", &[], "")),
    ];
    for (source, text) in files {
        bench.assert_plain(source, &text.replace('\n', "\r\n"), "with CR LF");
        bench.assert_plain(source, text.trim_end(), "without its last end of line");
        bench.assert_plain(source, &format!("\n{text}\n \n\n"), "with blank lines");
        bench.assert_plain(
            source,
            &text.replace('\n', "  \n"),
            "with blanks at line ends",
        );
    }
    let locked = bench.openssl("rsa", &["rsa", "-traditional", "-aes256"]);
    bench.assert_locked("rsa", &locked.replace('\n', "\r\n"), "with CR LF");
    let locked = bench.keygen("rsa", &["-a", "1"], PASSPHRASE);
    bench.assert_locked("rsa", &locked.replace('\n', "\r\n"), "with CR LF");
}

#[test]
fn large_and_small_rsa_keys_open() {
    let bench = Bench::new();
    for bits in ["1024", "3072", "4096", "8192"] {
        let path = bench.path(&format!("rsa{bits}"));
        run(
            "ssh-keygen",
            &[
                "-q",
                "-t",
                "rsa",
                "-b",
                bits,
                "-N",
                "",
                "-m",
                "PEM",
                "-f",
                path.to_str().unwrap(),
            ],
        );
        let source = format!("rsa{bits}");
        bench.assert_plain(&source, &bench.text(&source), bits);
    }
}

#[test]
fn unsupported_keys_are_refused_with_the_reason() {
    let bench = Bench::new();
    let file = |args: &[&str]| String::from_utf8(run("openssl", args)).unwrap();
    let params = file(&["dsaparam", "2048"]);
    fs::write(bench.path("dsaparam"), params).unwrap();
    let dsa = file(&["gendsa", bench.path("dsaparam").to_str().unwrap()]);
    fs::write(bench.path("dsa"), &dsa).unwrap();
    let why = |text: &str| inspect(text).err().unwrap();
    assert!(why(&dsa).contains("DSA"), "{}", why(&dsa));
    let old = bench.openssl("dsa", &["pkey", "-traditional"]);
    assert!(why(&old).contains("DSA"), "{}", why(&old));
    let odd = file(&["ecparam", "-name", "secp256k1", "-genkey", "-noout"]);
    assert!(why(&odd).contains("type or curve"), "{}", why(&odd));
    let odd = file(&["genpkey", "-algorithm", "ed448"]);
    assert!(why(&odd).contains("type or curve"), "{}", why(&odd));
    let odd = bench.openssl("rsa", &["rsa", "-traditional", "-camellia256"]);
    assert!(why(&odd).contains("CAMELLIA-256-CBC"), "{}", why(&odd));
    let made = bench.openssl("rsa", &["pkcs8", "-topk8", "-scrypt"]);
    let mut content = Pem::read(&made).unwrap().content.to_vec();
    // N, r and p of its scrypt.
    let at = content
        .windows(10)
        .position(|der| der == [2, 2, 64, 0, 2, 1, 8, 2, 1, 1]);
    content[at.unwrap()..][..10].copy_from_slice(&[2, 2, 64, 0, 2, 1, 127, 2, 1, 127]);
    let costly = format!(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n{}\n-----END ENCRYPTED PRIVATE KEY-----\n",
        Base64::encode_string(&content)
    );
    assert!(why(&costly).contains("more work"), "{}", why(&costly));
    assert!(why("no key").contains("a supported format"));
}

#[test]
fn truncated_or_changed_keys_are_refused_without_a_panic() {
    let bench = Bench::new();
    for (source, text) in [
        ("p256", bench.text("p256")),
        ("p256", bench.openssl("p256", &["ec", "-aes256"])),
        (
            "p256",
            bench.openssl("p256", &["pkcs8", "-topk8", "-iter", "1"]),
        ),
        ("ed25519", bench.text("ed25519")),
    ] {
        for cut in 0..text.trim_end().len() {
            let cut = &text[..cut];
            let opened = inspect(cut).is_ok() && decrypt(cut, PASSPHRASE).is_ok();
            assert!(!opened || cut.contains("-----END"), "{source}: {cut}");
        }
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            if let Ok(changed) = String::from_utf8(changed)
                && inspect(&changed).is_ok()
            {
                let _no_panic = decrypt(&changed, PASSPHRASE);
            }
        }
    }
}
