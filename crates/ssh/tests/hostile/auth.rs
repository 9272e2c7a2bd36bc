//! Attacks during user authentication (RFC 4252 and RFC 4256).

use std::time::Duration;

use tunneld_ssh::Error;
use tunneld_ssh::auth::AuthResult;
use tunneld_ssh::client::{AuthError, Authenticator, SignFuture, Signer};
use tunneld_ssh::wire::Writer;

use crate::peer::*;
use crate::play::*;

fn failure(methods: &str, partial: bool) -> Vec<u8> {
    message(FAILURE, |out| {
        out.string(methods);
        out.bool(partial);
    })
}

fn banner(text: &[u8]) -> Vec<u8> {
    message(BANNER, |out| {
        out.string(text);
        out.string("");
    })
}

fn info_request(count: u32, text: &[u8]) -> Vec<u8> {
    message(INFO_REQUEST, |out| {
        out.string("");
        out.string("");
        out.string("");
        out.u32(count);
        for _ in 0..count.min(10_000) {
            out.string(text);
            out.bool(false);
        }
    })
}

/// A signer that must not be called.
struct MustNotSign;

impl Signer for MustNotSign {
    fn sign<'a>(&'a mut self, _algorithm: &'a str, _data: &'a [u8]) -> SignFuture<'a> {
        panic!("the signer was called");
    }
}

/// A signer whose signature is not verified.
struct AnySignature;

impl Signer for AnySignature {
    fn sign<'a>(&'a mut self, _algorithm: &'a str, _data: &'a [u8]) -> SignFuture<'a> {
        Box::pin(std::future::ready(Ok(vec![0; 83])))
    }
}

#[tokio::test(start_paused = true)]
async fn ten_megabytes_of_banners_are_cut_to_8_kib() {
    let script = async |server: &mut Server| {
        server.accept_service().await;
        let packet = banner(&[b"\x1b[31mbuy now ".repeat(100), vec![0xff; 1000]].concat());
        server.flood(&packet, 5000).await;
        server.send(&failure("publickey", false)).await;
    };
    let ((result, kept), _) = login(script, async |mut authenticator: Authenticator| {
        let result = authenticator.none().await;
        (result, authenticator.banner().len())
    })
    .await;
    // The login may succeed or fail, but the text is not kept.
    assert!(kept <= 8 * 1024 + 3, "{kept}");
    match result {
        Ok(AuthResult::Failure { partial: false, .. }) | Err(Error::Protocol(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn banners_while_a_user_types_are_bounded() {
    let script = async |server: &mut Server| {
        server.accept_service().await;
        server.send(&info_request(1, b"Password:")).await;
        server.flood(&banner(&[b'x'; 200_000]), 1000).await
    };
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let scene = async {
        server.advance_to(When::Auth, &Offer::default()).await;
        script(&mut server).await
    };
    let client = async {
        let stream = tunneld_ssh::client::Stream::other(ours);
        let mut authenticator = connect(stream, Default::default(), Default::default())
            .await
            .unwrap();
        authenticator.keyboard_interactive("").await.unwrap();
        authenticator.closed().await
    };
    let (error, taken) = tokio::join!(client, scene);
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    assert!(taken <= 6, "{taken} banners of 200 kB were taken in");
}

#[tokio::test(start_paused = true)]
async fn info_requests_without_end_are_bounded_by_bytes() {
    for count in [0, 1] {
        let script = async |server: &mut Server| {
            server.accept_service().await;
            while server.send(&info_request(count, b"again?")).await {
                if server
                    .next()
                    .await
                    .is_none_or(|payload| payload[0] == DISCONNECT)
                {
                    break;
                }
            }
        };
        let (rounds, _) = login(script, async |mut authenticator: Authenticator| {
            let mut rounds = 0;
            let mut result = authenticator.keyboard_interactive("").await;
            while let Ok(AuthResult::InfoRequest(prompts)) = &result {
                rounds += 1;
                let answers = vec!["no"; prompts.prompts.len()];
                result = authenticator.info_response(&answers).await;
            }
            assert!(matches!(result, Err(Error::Protocol(_))), "{result:?}");
            rounds
        })
        .await;
        // 1 MiB of prompts, of which each request counts as at least 1 KiB.
        assert_eq!(rounds, 1024);
    }
}

#[tokio::test(start_paused = true)]
async fn a_million_prompts_are_refused() {
    for count in [1025, 1_000_000, u32::MAX] {
        let script = async |server: &mut Server| {
            server.accept_service().await;
            server.send(&info_request(count, b"?")).await;
        };
        let (result, _) = login(script, async |mut authenticator: Authenticator| {
            authenticator.keyboard_interactive("").await
        })
        .await;
        let text = result.unwrap_err().to_string();
        assert!(text.contains("64 KiB of prompts"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn long_prompts_are_cut() {
    let script = async |server: &mut Server| {
        server.accept_service().await;
        server.send(&info_request(2, &[b'?'; 30_000])).await;
    };
    let (result, _) = login(script, async |mut authenticator: Authenticator| {
        authenticator.keyboard_interactive("").await
    })
    .await;
    let Ok(AuthResult::InfoRequest(prompts)) = result else {
        panic!("{result:?}");
    };
    assert!(
        prompts
            .prompts
            .iter()
            .all(|prompt| prompt.text.len() <= 4096)
    );
}

#[tokio::test(start_paused = true)]
async fn partial_successes_end_the_session_after_six() {
    let script = async |server: &mut Server| {
        server.accept_service().await;
        while server.send(&failure("password", true)).await {
            if server
                .next()
                .await
                .is_none_or(|payload| payload[0] == DISCONNECT)
            {
                break;
            }
        }
    };
    let (steps, _) = login(script, async |mut authenticator: Authenticator| {
        let mut steps = 0;
        loop {
            match authenticator.password("secret", None).await {
                Ok(AuthResult::Failure { partial: true, .. }) => steps += 1,
                Err(Error::Protocol(_)) => return steps,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!(steps, 6);
}

#[tokio::test(start_paused = true)]
async fn no_signature_for_a_key_that_was_not_queried() {
    for (algorithm, key) in [
        ("ssh-ed25519", &b"another key"[..]),
        ("ssh-rsa", b"our key"),
        ("", b""),
    ] {
        let script = async |server: &mut Server| {
            server.accept_service().await;
            let ok = message(INFO_REQUEST, |out| {
                out.string(algorithm);
                out.string(key);
            });
            server.send(&ok).await;
        };
        let (result, _) = login(script, async |mut authenticator: Authenticator| {
            authenticator
                .public_key("ssh-ed25519", b"our key", &mut MustNotSign)
                .await
        })
        .await;
        assert!(
            matches!(result, Err(AuthError::Session(Error::Protocol(_)))),
            "{result:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_unrequested_success_ends_the_session() {
    // Before SERVICE_ACCEPT.
    let end = attack(When::Auth, async |server| {
        server.send(&[SUCCESS]).await;
    })
    .await;
    end.says("a login message before SERVICE_ACCEPT");
    // In answer to a query, without a signature.
    let script = async |server: &mut Server| {
        server.accept_service().await;
        server.send(&[SUCCESS]).await;
    };
    let (result, _) = login(script, async |mut authenticator: Authenticator| {
        authenticator
            .public_key("ssh-ed25519", b"key", &mut MustNotSign)
            .await
    })
    .await;
    let text = result.unwrap_err().to_string();
    assert!(
        text.contains("a key was accepted before it signed"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_session_before_the_login_end_it() {
    for number in [
        SERVICE_REQUEST,
        61,
        79,
        GLOBAL_REQUEST,
        OPEN,
        DATA,
        CLOSE,
        200,
    ] {
        let end = attack(When::Auth, async |server| {
            server.accept_service().await;
            server.send(&[number, 0, 0, 0, 0]).await;
            server.send(&[number, 0, 0, 0, 0]).await;
        })
        .await;
        if number == SERVICE_REQUEST {
            // The transport answers unknown numbers with UNIMPLEMENTED and waits on.
            end.says("timed out");
        } else {
            assert!(matches!(end.error, Error::Protocol(_)), "{number}: {end:?}");
        }
        assert_eq!(end.reached, When::Auth);
    }
}

#[tokio::test(start_paused = true)]
async fn another_service_than_requested_ends_the_session() {
    let end = attack(When::Auth, async |server| {
        server.expect(SERVICE_REQUEST).await;
        let accept = message(SERVICE_ACCEPT, |out| out.string("ssh-connection"));
        server.send(&accept).await;
    })
    .await;
    end.says("a service that was not requested");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_login_times_out() {
    for accepted in [false, true] {
        let end = attack(When::Auth, async |server| {
            if accepted {
                server.accept_service().await;
                // A banner is not an answer.
                server.send(&banner(b"soon")).await;
            }
        })
        .await;
        end.says("timed out while waiting for an answer to the login");
        assert_eq!(end.after, Duration::from_secs(30));
    }
}

#[tokio::test(start_paused = true)]
async fn endless_banners_do_not_extend_the_timeout() {
    let end = attack(When::Auth, async |server| {
        server.accept_service().await;
        while server.send(&banner(b"soon")).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    end.says("timed out while waiting for an answer to the login");
    assert_eq!(end.after, Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn truncated_answers_end_the_session() {
    for payload in [
        &[FAILURE][..],
        &[FAILURE, 0, 0, 0, 9],
        &[FAILURE, 0, 0, 0, 0],
        &[BANNER],
        &[BANNER, 0xff, 0xff, 0xff, 0xff],
        &[INFO_REQUEST],
    ] {
        let script = async |server: &mut Server| {
            server.accept_service().await;
            server.send(payload).await;
        };
        let (result, _) = login(script, async |mut authenticator: Authenticator| {
            authenticator
                .public_key_unqueried("ssh-ed25519", b"key", &mut AnySignature)
                .await
        })
        .await;
        assert!(
            matches!(result, Err(AuthError::Session(Error::Protocol(_)))),
            "{payload:?}: {result:?}"
        );
    }
}

/// A lost connection must never be reported as a refusal.
#[tokio::test(start_paused = true)]
async fn a_disconnect_during_the_login_is_not_a_refusal() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let scene = async {
        let mut server = Server::new(theirs);
        server.advance_to(When::Auth, &Offer::default()).await;
        server.accept_service().await;
    };
    let client = async {
        let stream = tunneld_ssh::client::Stream::other(ours);
        let authenticator = connect(stream, Default::default(), Default::default()).await;
        authenticator.unwrap().password("secret", None).await
    };
    let (result, ()) = tokio::join!(client, scene);
    assert!(matches!(result, Err(Error::Eof)), "{result:?}");
}
