//! Answers that fit the pending request, and answers that do not.

use super::*;
use crate::wire::Writer;

fn service_accepted() -> UserAuth {
    let (mut auth, request) = UserAuth::new("alice");
    assert_eq!(request[0], message::SERVICE_REQUEST);
    assert_eq!(
        auth.handle(&message(6, |out| out.string("ssh-userauth")))
            .unwrap(),
        None
    );
    auth
}

fn message(number: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![number];
    fill(&mut out);
    out
}

fn failure(methods: &str, partial: bool) -> Vec<u8> {
    message(51, |out| {
        out.string(methods);
        out.bool(partial);
    })
}

fn info_request(count: u32) -> Vec<u8> {
    message(60, |out| {
        out.string("name");
        out.string("instruction");
        out.string("");
        out.u32(count);
        for _ in 0..count {
            out.string("Code: ");
            out.bool(true);
        }
    })
}

#[test]
fn a_refusal_lists_the_remaining_methods() {
    let mut auth = service_accepted();
    auth.none();
    assert_eq!(
        auth.handle(&failure("publickey,password", false)).unwrap(),
        Some(AuthResult::Failure {
            remaining: vec!["publickey".into(), "password".into()],
            partial: false
        })
    );
}

#[test]
fn an_unrequested_success_ends_the_session() {
    assert!(service_accepted().handle(&[52]).is_err());
    let mut auth = service_accepted();
    auth.public_key_query("ssh-ed25519", b"key");
    assert!(auth.handle(&[52]).is_err());
    let (mut early, _) = UserAuth::new("alice");
    early.none();
    assert!(early.handle(&[52]).is_err());
    let mut twice = service_accepted();
    twice.none();
    assert_eq!(twice.handle(&[52]).unwrap(), Some(AuthResult::Success));
    assert!(twice.handle(&[52]).is_err());
    assert!(service_accepted().handle(&failure("none", false)).is_err());
}

#[test]
fn only_the_queried_key_may_be_accepted() {
    let ok = |key: &str| {
        message(60, |out| {
            out.string("ssh-ed25519");
            out.string(key);
        })
    };
    let mut auth = service_accepted();
    auth.public_key_query("ssh-ed25519", b"mine");
    assert_eq!(auth.handle(&ok("mine")).unwrap(), Some(AuthResult::PkOk));
    auth.public_key_query("ssh-ed25519", b"mine");
    assert!(auth.handle(&ok("other")).is_err());
}

#[test]
fn a_signature_covers_the_session_and_the_whole_request() {
    let mut auth = service_accepted();
    let signed = auth.signed_data(b"id", "ssh-ed25519", b"key");
    let request = auth.public_key("ssh-ed25519", b"key", b"sig");
    assert_eq!(&signed[..6], b"\0\0\0\x02id");
    assert_eq!(&signed[6..], &request[..request.len() - 7]);
}

#[test]
fn prompts_and_their_rounds_are_bounded_by_bytes() {
    for count in [0, 2, 12] {
        let mut auth = service_accepted();
        auth.keyboard_interactive("");
        for _ in 0..1000 {
            let Some(AuthResult::InfoRequest(request)) = auth.handle(&info_request(count)).unwrap()
            else {
                panic!("no prompts");
            };
            assert_eq!(request.prompts.len(), count as usize);
            assert!(request.prompts.iter().all(|prompt| prompt.echo));
        }
        assert!((0..100).any(|_| auth.handle(&info_request(count)).is_err()));
    }
    let mut auth = service_accepted();
    auth.keyboard_interactive("");
    assert!(auth.handle(&info_request(1_000_000)).is_err());
    let mut auth = service_accepted();
    auth.password("secret", None);
    assert!(auth.handle(&[61]).is_err());
}

#[test]
fn an_expired_password_can_be_changed() {
    let mut auth = service_accepted();
    auth.password("old", None);
    let expired = message(60, |out| {
        out.string("Your password has expired");
        out.string("");
    });
    assert_eq!(
        auth.handle(&expired).unwrap(),
        Some(AuthResult::PasswordChangeRequest(
            "Your password has expired".into()
        ))
    );
    let change = auth.password("old", Some("new"));
    assert!(change.ends_with(b"\x01\0\0\0\x03old\0\0\0\x03new"));
}

#[test]
fn partial_successes_are_bounded() {
    let mut auth = service_accepted();
    for _ in 0..6 {
        auth.none();
        assert!(auth.handle(&failure("password", true)).is_ok());
    }
    auth.none();
    assert!(auth.handle(&failure("password", true)).is_err());
}

#[test]
fn banners_are_kept_up_to_a_bound() {
    let mut auth = service_accepted();
    let banner = message(53, |out| {
        out.string("é".repeat(1000));
        out.string("");
    });
    for _ in 0..100 {
        auth.handle(&banner).unwrap();
    }
    assert!(auth.banner().len() <= 8192 && auth.banner().len() > 8000);
}

#[test]
fn messages_of_a_custom_method_are_passed_on() {
    let mut auth = service_accepted();
    let request = auth.custom("gssapi-with-mic", &[0, 0, 0, 0]);
    assert!(request.ends_with(b"gssapi-with-mic\0\0\0\0"));
    for number in [60, 61, 65] {
        assert_eq!(
            auth.handle(&[number, 1]).unwrap(),
            Some(AuthResult::Custom(vec![number, 1]))
        );
    }
    assert_eq!(auth.handle(&[52]).unwrap(), Some(AuthResult::Success));
}

proptest::proptest! {
    #[test]
    fn no_message_panics(messages: Vec<Vec<u8>>, method in 0..5) {
        let mut auth = service_accepted();
        for payload in messages {
            match method {
                0 => auth.none(),
                1 => auth.password("p", None),
                2 => auth.public_key_query("a", b"k"),
                3 => auth.keyboard_interactive(""),
                _ => auth.custom("m", b""),
            };
            let _ = auth.handle(&payload);
        }
    }
}
