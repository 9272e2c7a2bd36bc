//! Attacks on the negotiation (RFC 4253 §7) and strict key exchange (OpenSSH PROTOCOL §1.10).

use tunneld_ssh::client::{Options, Stream};
use tunneld_ssh::wire::Writer;
use tunneld_ssh::{Config, Error};

use crate::peer::*;
use crate::play::*;

async fn offered(offer: &Offer) -> End {
    attack(When::Kex, async |server| server.send_kexinit(offer).await).await
}

async fn sent(payload: &[u8]) -> End {
    attack(When::Kex, async |server| {
        server.send(payload).await;
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn an_empty_or_truncated_kexinit_is_refused() {
    let whole = Offer::default().payload();
    for length in [1, 5, 17, 20, whole.len() / 2, whole.len() - 1] {
        sent(&whole[..length])
            .await
            .says("malformed")
            .before_login();
    }
    let longer = [&whole[..], &[0]].concat();
    sent(&longer).await.says("malformed").before_login();
}

#[tokio::test(start_paused = true)]
async fn empty_lists_have_no_algorithm_in_common() {
    let end = offered(&Offer {
        kex: String::new(),
        ..Offer::default()
    })
    .await;
    end.says("no common key exchange method: ours are mlkem768x25519-sha256,")
        .says("theirs are ")
        .before_login();
    assert_eq!(end.disconnect.as_deref(), Some("3 no common algorithm"));
}

#[tokio::test(start_paused = true)]
async fn tens_of_thousands_of_names_are_searched() {
    let names = "x,".repeat(60_000);
    let end = offered(&Offer {
        kex: names.clone(),
        ..Offer::default()
    })
    .await;
    end.says("no common key exchange method");
    assert!(end.error.to_string().len() < 2048);
    // A common name at the end of the list is found.
    let end = offered(&Offer {
        kex: format!("{names}curve25519-sha256"),
        ciphers: "none".into(),
        ..Offer::default()
    })
    .await;
    end.says("no common cipher");
}

#[tokio::test(start_paused = true)]
async fn an_error_names_both_lists() {
    let theirs = || "weak\x1b[2J".to_owned();
    for (what, ours, offer) in [
        (
            "key exchange method",
            "curve25519-sha256",
            Offer {
                kex: theirs(),
                ..Offer::default()
            },
        ),
        (
            "host key algorithm",
            "ssh-ed25519",
            Offer {
                host_keys: theirs(),
                ..Offer::default()
            },
        ),
        (
            "cipher",
            "aes256-ctr",
            Offer {
                ciphers: theirs(),
                ..Offer::default()
            },
        ),
        (
            "MAC",
            "hmac-sha2-512",
            Offer {
                ciphers: "aes128-ctr".into(),
                macs: theirs(),
                ..Offer::default()
            },
        ),
        (
            "compression",
            "none",
            Offer {
                compression: theirs(),
                ..Offer::default()
            },
        ),
    ] {
        offered(&offer)
            .await
            .says(&format!("no common {what}: ours are "))
            .says(ours)
            .says("theirs are weak")
            .before_login();
    }
}

#[tokio::test(start_paused = true)]
async fn no_legacy_algorithm_is_negotiated_by_default() {
    for (what, offer) in [
        (
            "key exchange",
            Offer {
                kex: "diffie-hellman-group14-sha1,diffie-hellman-group1-sha1".into(),
                ..Offer::default()
            },
        ),
        (
            "host key",
            Offer {
                host_keys: "ssh-rsa,ssh-dss".into(),
                ..Offer::default()
            },
        ),
        (
            "cipher",
            Offer {
                ciphers: "3des-cbc,aes128-cbc,arcfour,none".into(),
                ..Offer::default()
            },
        ),
        (
            "MAC",
            Offer {
                ciphers: "aes128-ctr".into(),
                macs: "hmac-sha1,hmac-md5,none".into(),
                ..Offer::default()
            },
        ),
        (
            "compression",
            Offer {
                compression: "zlib,zlib@openssh.com".into(),
                ..Offer::default()
            },
        ),
    ] {
        offered(&offer)
            .await
            .says("no common")
            .says(what)
            .before_login();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_guess_is_ignored_once() {
    let guess = message(KEX_REPLY, |out| out.string("not what was agreed on"));
    // A guess is right only if both first choices are the same: ours is the hybrid.
    let offer = Offer {
        guess: true,
        ..Offer::default()
    };
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let scene = async {
        server.identify().await;
        server.send_kexinit(&offer).await;
        server.send(&guess).await;
        server.peer.client_kexinit = server.expect(KEXINIT).await;
        server.finish_exchange().await;
    };
    let client = connect(Stream::other(ours), Config::default(), Options::default());
    let (authenticator, ()) = tokio::join!(client, scene);
    authenticator.unwrap();
    let end = attack(When::Kex, async |server| {
        server.send_kexinit(&offer).await;
        server.send(&guess).await;
        server.send(&guess).await;
    })
    .await;
    end.says("malformed").before_login();
}

#[tokio::test(start_paused = true)]
async fn with_strict_any_other_message_before_the_keys_ends_the_session() {
    for stray in [
        vec![IGNORE, 0, 0, 0, 0],
        vec![DEBUG, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![UNIMPLEMENTED, 0, 0, 0, 0],
        vec![EXT_INFO, 0, 0, 0, 0],
        vec![SERVICE_ACCEPT],
        vec![SUCCESS],
        vec![192],
    ] {
        // Before the KEXINIT and after it.
        let end = attack(When::Kex, async |server| {
            server.send(&stray).await;
            server.send_kexinit(&Offer::default()).await;
        })
        .await;
        assert!(
            matches!(end.error, Error::Protocol(_) | Error::KexFailed(_)),
            "{stray:?}: {end:?}"
        );
        end.before_login();
        let end = attack(When::Kex, async |server| {
            server.send_kexinit(&Offer::default()).await;
            server.send(&stray).await;
        })
        .await;
        end.says("a stray message in a strict key exchange")
            .before_login();
    }
}

#[tokio::test(start_paused = true)]
async fn without_strict_ignore_before_the_keys_is_allowed() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let scene = async {
        server.identify().await;
        server.send(&[IGNORE, 0, 0, 0, 0]).await;
        server.send_kexinit(&Offer::without_strict()).await;
        server.send(&[IGNORE, 0, 0, 0, 0]).await;
        server.peer.client_kexinit = server.expect(KEXINIT).await;
        server.finish_exchange().await;
    };
    let client = connect(Stream::other(ours), Config::default(), Options::default());
    let (authenticator, ()) = tokio::join!(client, scene);
    assert!(!authenticator.unwrap().info().negotiated.strict);
}

#[tokio::test(start_paused = true)]
async fn vulnerable_ciphers_are_refused_without_strict() {
    let chacha = Offer {
        ciphers: "chacha20-poly1305@openssh.com".into(),
        ..Offer::without_strict()
    };
    offered(&chacha).await.says("Terrapin").before_login();
    let etm = Offer {
        ciphers: "aes128-cbc".into(),
        macs: "hmac-sha2-256-etm@openssh.com".into(),
        ..Offer::without_strict()
    };
    let named = Config {
        ciphers: vec!["aes128-cbc"],
        ..Config::default()
    };
    let end = attack_with(named, etm.clone(), When::Kex, async |server| {
        server.send_kexinit(&etm).await;
    })
    .await;
    end.says("Terrapin").before_login();
}

#[tokio::test(start_paused = true)]
async fn messages_out_of_order_before_the_keys_end_the_session() {
    for messages in [
        vec![vec![NEWKEYS]],
        vec![vec![KEX_REPLY]],
        vec![vec![SUCCESS]],
        vec![vec![GLOBAL_REQUEST]],
        vec![
            Offer::without_strict().payload(),
            Offer::without_strict().payload(),
        ],
        vec![Offer::without_strict().payload(), vec![NEWKEYS]],
        vec![Offer::without_strict().payload(), vec![SUCCESS]],
        vec![Offer::without_strict().payload(), vec![KEX_INIT]],
        vec![Offer::without_strict().payload(), vec![49]],
    ] {
        let end = attack(When::Kex, async |server| {
            for message in &messages {
                server.send(message).await;
            }
        })
        .await;
        assert!(
            matches!(end.error, Error::Protocol(_) | Error::KexFailed(_)),
            "{messages:?}: {end:?}"
        );
        end.before_login();
    }
}
