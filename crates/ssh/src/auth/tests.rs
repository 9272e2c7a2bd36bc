//! Answers in and out of turn.

use super::*;
use crate::wire::Writer;

fn begun() -> Auth {
    let (mut auth, request) = Auth::new("alice");
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

fn questions(count: u32) -> Vec<u8> {
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
fn a_refusal_names_what_remains() {
    let mut auth = begun();
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
fn success_unasked_ends_the_session() {
    assert!(begun().handle(&[52]).is_err());
    let mut auth = begun();
    auth.query("ssh-ed25519", b"key");
    assert!(auth.handle(&[52]).is_err());
    let (mut early, _) = Auth::new("alice");
    early.none();
    assert!(early.handle(&[52]).is_err());
    let mut twice = begun();
    twice.none();
    assert_eq!(twice.handle(&[52]).unwrap(), Some(AuthResult::Success));
    assert!(twice.handle(&[52]).is_err());
    assert!(begun().handle(&failure("none", false)).is_err());
}

#[test]
fn only_the_key_that_was_shown_may_be_taken() {
    let ok = |key: &str| {
        message(60, |out| {
            out.string("ssh-ed25519");
            out.string(key);
        })
    };
    let mut auth = begun();
    auth.query("ssh-ed25519", b"mine");
    assert_eq!(auth.handle(&ok("mine")).unwrap(), Some(AuthResult::PkOk));
    auth.query("ssh-ed25519", b"mine");
    assert!(auth.handle(&ok("other")).is_err());
}

#[test]
fn a_signature_covers_the_session_and_the_whole_request() {
    let mut auth = begun();
    let signed = auth.to_sign(b"id", "ssh-ed25519", b"key");
    let request = auth.public_key("ssh-ed25519", b"key", b"sig");
    assert_eq!(&signed[..6], b"\0\0\0\x02id");
    assert_eq!(&signed[6..], &request[..request.len() - 7]);
}

#[test]
fn questions_are_bounded() {
    let mut auth = begun();
    auth.keyboard_interactive("");
    for _ in 0..3 {
        let Some(AuthResult::Prompts(prompts)) = auth.handle(&questions(2)).unwrap() else {
            panic!("no prompts");
        };
        assert_eq!(prompts.prompts.len(), 2);
        assert!(prompts.prompts[0].echo);
    }
    assert!(auth.handle(&questions(1)).is_err());
    let mut auth = begun();
    auth.keyboard_interactive("");
    assert!(auth.handle(&questions(1_000_000)).is_err());
    let mut auth = begun();
    auth.password("secret", None);
    assert!(auth.handle(&[61]).is_err());
}

#[test]
fn an_expired_password_is_changed() {
    let mut auth = begun();
    auth.password("old", None);
    let expired = message(60, |out| {
        out.string("Your password has expired");
        out.string("");
    });
    assert_eq!(
        auth.handle(&expired).unwrap(),
        Some(AuthResult::ChangeRequest(
            "Your password has expired".into()
        ))
    );
    let change = auth.password("old", Some("new"));
    assert!(change.ends_with(b"\x01\0\0\0\x03old\0\0\0\x03new"));
}

#[test]
fn partial_successes_end() {
    let mut auth = begun();
    for _ in 0..6 {
        auth.none();
        assert!(auth.handle(&failure("password", true)).is_ok());
    }
    auth.none();
    assert!(auth.handle(&failure("password", true)).is_err());
}

#[test]
fn banners_are_kept_up_to_a_bound() {
    let mut auth = begun();
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
fn a_foreign_method_is_carried_on_outside() {
    let mut auth = begun();
    let request = auth.other("gssapi-with-mic", &[0, 0, 0, 0]);
    assert!(request.ends_with(b"gssapi-with-mic\0\0\0\0"));
    for number in [60, 61, 65] {
        assert_eq!(
            auth.handle(&[number, 1]).unwrap(),
            Some(AuthResult::Other(vec![number, 1]))
        );
    }
    assert_eq!(auth.handle(&[52]).unwrap(), Some(AuthResult::Success));
}

proptest::proptest! {
    #[test]
    fn no_message_panics(messages: Vec<Vec<u8>>, method in 0..5) {
        let mut auth = begun();
        for payload in messages {
            match method {
                0 => auth.none(),
                1 => auth.password("p", None),
                2 => auth.query("a", b"k"),
                3 => auth.keyboard_interactive(""),
                _ => auth.other("m", b""),
            };
            let _ = auth.handle(&payload);
        }
    }
}
