//! The task without its main loop: each test calls the handlers itself, and no background work makes progress.

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::oneshot;
use tunneld_proto::status::{PromptField, PromptKind};

use super::*;
use crate::forward::ServerListeners;
use crate::prompt::{AskingServer, PendingPrompt, PromptRequest, ServerText};
use crate::tunnel::answer_cache::MAX_AGE;
use tunneld_config::{Env, Loader, ad_hoc};

struct Bench {
    task: Task,
    _commands: mpsc::Sender<Command>,
}

fn context() -> TaskContext {
    TaskContext {
        registry: StatusRegistry::new(),
        last_prompt_id: Arc::default(),
        answers: SharedAnswers::default(),
        listeners: ServerListeners::default(),
        dials: crate::session::DialState::default(),
        refresh: RefreshHandle::default(),
    }
}

impl Bench {
    /// A tunnel that is dialling.
    async fn dialling() -> Self {
        Self::dialling_as("t", context()).await
    }

    async fn dialling_as(name: &str, context: TaskContext) -> Self {
        let loader = Loader::new(
            "/none".into(),
            Env::for_tests("/none"),
            std::sync::Arc::new(tunneld_platform::subprocess::TokioPrograms),
        );
        let keys = serde_json::json!({ "host": "127.0.0.1", "port": 1, "ssh_config": false });
        let config = ad_hoc(name, &keys, &loader).await.unwrap();
        let (commands, inbox) = mpsc::channel(1);
        let mut task = Task::new(Arc::new(config), context, inbox);
        task.apply(Event::WantUp);
        Self {
            task,
            _commands: commands,
        }
    }

    /// The dial asks for a password.
    fn ask(&mut self) -> oneshot::Receiver<Vec<SecretString>> {
        self.ask_for("SHA256:a")
    }

    /// The dial asks for a password of the server with this host key.
    fn ask_for(&mut self, host_key: &str) -> oneshot::Receiver<Vec<SecretString>> {
        let request = PromptRequest {
            kind: PromptKind::Password,
            host: "ada@login:22".into(),
            note: String::new(),
            text: "A password.".into(),
            fields: vec![PromptField {
                label: "Password: ".into(),
                echo: false,
            }],
            fingerprint: None,
            server: Some(AskingServer {
                host_key: host_key.into(),
                banner: ServerText::default(),
                instructions: ServerText::default(),
            }),
        };
        let (answer, answered) = oneshot::channel();
        self.task.ask(PendingPrompt { request, answer });
        answered
    }

    /// The user answers the open prompt, or cancels it.
    fn answer(&mut self, answer: Option<&str>) {
        let id = self.task.activity.prompt().expect("a prompt").id;
        let answers = answer.map(|answer| vec![answer.into()]);
        self.task.answer(id, answers).expect("it fits");
    }

    fn lose_connection(&mut self) {
        let epoch = self.task.machine.live_epoch().unwrap();
        let why = Failure::new(
            FailureKind::Disconnected,
            "the server closed the connection",
        );
        self.task.on_session_lost(epoch, why);
    }

    fn is_connecting(&self) -> bool {
        matches!(self.task.machine.state(), State::Connecting { .. })
    }

    fn open_prompts(&self) -> usize {
        self.task.context.registry.prompts().len()
    }
}

#[tokio::test]
async fn a_cancelled_prompt_lets_the_dial_continue() {
    let mut bench = Bench::dialling().await;
    let mut answered = bench.ask();
    assert!(!bench.is_connecting());
    bench.answer(None);
    assert!(answered.try_recv().is_err());
    assert!(bench.is_connecting(), "{:?}", bench.task.machine.state());
}

#[tokio::test]
async fn a_question_does_not_stand_beside_the_failure_that_it_has_overcome() {
    for (kind, stays) in [
        (FailureKind::HostKeyChanged, false),
        (FailureKind::ConnectRefused, false),
        (FailureKind::AuthRefused, true),
    ] {
        let mut bench = Bench::dialling().await;
        let failure = Failure::new(kind, "before");
        bench.task.history.last_error = Some((failure, Timestamp::now()));
        let _answered = bench.ask();
        assert_eq!(bench.task.history.last_error.is_some(), stays);
    }
}

#[tokio::test]
async fn an_answer_that_arrives_after_its_dial_ended_serves_the_next_dial() {
    let mut bench = Bench::dialling().await;
    drop(bench.ask());
    bench.answer(Some("s3cret"));
    bench.lose_connection();
    bench.task.apply(Event::WantUp);
    let answers = bench.ask().try_recv().unwrap();
    assert_eq!(answers[0].expose_secret(), "s3cret");
    assert!(bench.is_connecting(), "the user is not asked again");
}

#[tokio::test]
async fn a_kept_answer_serves_no_server_with_another_host_key() {
    let mut bench = Bench::dialling().await;
    drop(bench.ask_for("SHA256:a"));
    bench.answer(Some("s3cret"));
    bench.lose_connection();
    bench.task.apply(Event::WantUp);
    assert!(bench.ask_for("SHA256:b").try_recv().is_err());
    assert_eq!(bench.open_prompts(), 1, "the user is asked");
}

#[tokio::test]
async fn a_kept_answer_is_forgotten_when_the_tunnel_goes_down() {
    let mut bench = Bench::dialling().await;
    drop(bench.ask());
    bench.answer(Some("s3cret"));
    bench.lose_connection();
    assert!(bench.task.kept_answer.is_some());
    bench.task.apply(Event::WantDown);
    assert!(bench.task.kept_answer.is_none());
}

#[tokio::test(start_paused = true)]
async fn cached_answers_are_wiped_although_their_tunnel_is_removed() {
    let mut bench = Bench::dialling().await;
    let _answered = bench.ask();
    bench.answer(Some("s3cret"));
    let Activity::Dialing(dial) = &mut bench.task.activity else {
        panic!("no dial");
    };
    let answers = std::mem::take(&mut dial.answers);
    let request = answers[0].0.clone();
    bench.task.cache_answers(answers);
    let shared = bench.task.context.answers.clone();
    assert!(shared.get(&request).is_some());
    drop(bench);
    let wiping = tokio::time::timeout(MAX_AGE * 2, shared.wipe_expired());
    assert!(wiping.await.is_err());
    assert!(shared.is_empty());
}

#[tokio::test]
async fn a_prompt_outlives_its_connection_but_not_its_tunnel() {
    let mut bench = Bench::dialling().await;
    let _answered = bench.ask();
    bench.lose_connection();
    assert!(matches!(
        bench.task.machine.state(),
        State::AwaitingAnswer { .. }
    ));
    assert_eq!(bench.open_prompts(), 1);
    bench.task.apply(Event::WantDown);
    assert_eq!(bench.open_prompts(), 0);
}

#[tokio::test]
async fn a_second_tunnel_of_the_same_host_waits_for_the_first_ones_prompt() {
    let mut first = Bench::dialling().await;
    let _answered = first.ask();
    let context = first.task.context.clone();
    let mut second = Bench::dialling_as("u", context).await;
    let mut cancelled = second.ask();
    assert!(cancelled.try_recv().is_err());
    assert_eq!(second.open_prompts(), 1);
    let prompt = second.task.activity.prompt().expect("the first one's");
    assert_eq!(prompt.tunnel, "t");
    first.task.apply(Event::WantDown);
    let event = second.task.activity.next().await;
    second.task.on_activity_event(event);
    assert!(second.is_connecting());
}
