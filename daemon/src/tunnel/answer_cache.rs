//! Answers that led to a successful login a short time ago. Tunnels that wait for a login at the same server reuse
//! them, so that the user is asked once. The accepted host key is what makes it the same server: two tunnels may reach
//! different servers by one address. One-time codes are never cached.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tunneld_proto::status::PromptKind;

use crate::prompt::PromptRequest;

/// How long an answer stays in the cache: enough for the tunnels that waited for the one that asked.
pub const MAX_AGE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct CachedAnswer {
    request: PromptRequest,
    answers: Vec<SecretString>,
    at: Instant,
}

/// The cached answers of all tunnels. Pure: the caller passes the time.
#[derive(Debug, Default)]
pub struct AnswerCache(Vec<CachedAnswer>);

/// The cache as all tunnels share it. Clones share the answers.
#[derive(Debug, Clone, Default)]
pub struct SharedAnswers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    // Not a tokio mutex: held for a look-up, never across an await.
    cache: Mutex<AnswerCache>,
    inserted: Notify,
}

impl SharedAnswers {
    /// Stores answers that the server accepted, as [`AnswerCache::insert`] does.
    pub fn insert(&self, request: PromptRequest, answers: Vec<SecretString>) {
        self.0.cache.lock().insert(Instant::now(), request, answers);
        self.0.inserted.notify_one();
    }

    /// Returns the answers to the same question, or `None` if there are none younger than [`MAX_AGE`].
    pub fn get(&self, request: &PromptRequest) -> Option<Vec<SecretString>> {
        self.0.cache.lock().get(Instant::now(), request)
    }

    /// Whether there is no answer, expired or not.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.cache.lock().0.is_empty()
    }

    /// Wipes answers from memory when they expire, whether or not their tunnel still exists. Never returns.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wipe_expired(&self) {
        loop {
            let oldest = self.0.cache.lock().oldest();
            match oldest {
                Some(at) => sleep_until(at + MAX_AGE).await,
                None => self.0.inserted.notified().await,
            }
            self.0.cache.lock().remove_expired(Instant::now());
        }
    }
}

impl AnswerCache {
    /// Stores answers that the server accepted. Ignores answers that are not reusable.
    pub fn insert(&mut self, now: Instant, request: PromptRequest, answers: Vec<SecretString>) {
        self.remove_expired(now);
        // A host key that was accepted is in known_hosts, or was accepted for one connection only. A new password
        // replaces the old one once.
        let is_login = !matches!(request.kind, PromptKind::HostKey | PromptKind::NewPassword);
        if request.is_reusable() && is_login {
            self.0
                .retain(|cached| !cached.request.same_question(&request));
            self.0.push(CachedAnswer {
                request,
                answers,
                at: now,
            });
        }
    }

    /// Returns the answers to the same question, or `None` if there are none younger than [`MAX_AGE`].
    pub fn get(&mut self, now: Instant, request: &PromptRequest) -> Option<Vec<SecretString>> {
        self.remove_expired(now);
        self.0
            .iter()
            .find(|cached| cached.request.same_question(request))
            .map(|cached| cached.answers.clone())
    }

    /// When the oldest answer was inserted. `None` if there is no answer, expired or not.
    fn oldest(&self) -> Option<Instant> {
        self.0.iter().map(|cached| cached.at).min()
    }

    /// Drops expired answers, which wipes them from memory.
    pub fn remove_expired(&mut self, now: Instant) {
        self.0
            .retain(|cached| now.saturating_duration_since(cached.at) < MAX_AGE);
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use tunneld_proto::status::PromptField;

    use super::*;
    use crate::prompt::{AskingServer, ServerText};

    fn request(kind: PromptKind) -> PromptRequest {
        PromptRequest {
            kind,
            host: "ada@login:22".to_owned(),
            note: String::new(),
            text: String::new(),
            fields: vec![PromptField {
                label: if kind == PromptKind::Password {
                    "Password: "
                } else {
                    "Code: "
                }
                .to_owned(),
                echo: false,
            }],
            fingerprint: None,
            server: Some(AskingServer {
                host_key: "SHA256:a".to_owned(),
                banner: ServerText::default(),
                instructions: ServerText::default(),
            }),
        }
    }

    #[test]
    fn an_answer_serves_only_the_host_key_that_it_was_typed_for() {
        let now = Instant::now();
        let mut cache = AnswerCache::default();
        let first = request(PromptKind::Password);
        let mut other = first.clone();
        other.server.as_mut().unwrap().host_key = "SHA256:b".to_owned();
        cache.insert(now, first.clone(), vec!["s3cret".to_owned().into()]);
        assert!(cache.get(now, &other).is_none());
        assert!(cache.get(now, &first).is_some());
        assert!(first.waits_behind(&request(PromptKind::KeyboardInteractive)));
        assert!(!other.waits_behind(&first));
    }

    #[tokio::test(start_paused = true)]
    async fn shared_answers_are_wiped_without_any_tunnel() {
        let answers = SharedAnswers::default();
        let wiping = async {
            answers.insert(request(PromptKind::Password), vec!["s".to_owned().into()]);
            tokio::time::sleep(MAX_AGE / 2).await;
            answers.insert(request(PromptKind::Passphrase), vec!["t".to_owned().into()]);
            tokio::time::sleep(MAX_AGE * 3 / 4).await;
            assert_eq!(answers.0.cache.lock().0.len(), 1);
            tokio::time::sleep(MAX_AGE / 2).await;
        };
        tokio::select! {
            () = wiping => {}
            () = answers.wipe_expired() => {}
        }
        assert!(answers.0.cache.lock().0.is_empty());
    }

    #[test]
    fn a_right_answer_replaces_the_wrong_one_before_it() {
        let now = Instant::now();
        let mut cache = AnswerCache::default();
        let first = request(PromptKind::Password);
        let repeated = PromptRequest {
            note: "The password was wrong. ".to_owned(),
            ..first.clone()
        };
        cache.insert(now, first.clone(), vec!["typo".to_owned().into()]);
        cache.insert(now, repeated, vec!["right".to_owned().into()]);
        let found = cache.get(now, &first).unwrap();
        assert_eq!(found[0].expose_secret(), "right");
    }

    #[test]
    fn a_password_is_cached_for_a_while_and_a_code_never() {
        let now = Instant::now();
        let mut cache = AnswerCache::default();
        cache.insert(
            now,
            request(PromptKind::Password),
            vec!["s".to_owned().into()],
        );
        cache.insert(
            now,
            request(PromptKind::KeyboardInteractive),
            vec!["123456".to_owned().into()],
        );
        let found = cache.get(now, &request(PromptKind::Password)).unwrap();
        assert_eq!(found[0].expose_secret(), "s");
        assert!(
            cache
                .get(now, &request(PromptKind::KeyboardInteractive))
                .is_none()
        );
        assert!(
            cache
                .get(now + MAX_AGE, &request(PromptKind::Password))
                .is_none()
        );
        assert!(cache.0.is_empty());
    }
}
