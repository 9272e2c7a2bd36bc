//! The task driven by hand: what it hears is given, its dials lead nowhere.

use secrecy::ExposeSecret as _;
use tunneld_proto::status::{PromptField, PromptKind};

use tokio::sync::oneshot;

use super::*;
use tunneld_config::{Env, Loader, ad_hoc};

struct Bench {
    task: Task,
    _commands: mpsc::Sender<Command>,
}

impl Bench {
    /// A tunnel that is being dialled; nothing of the dial happens as long as nobody waits for it.
    async fn dialling() -> Self {
        let loader = Loader::new(
            "/none".into(),
            Env::for_tests("/none"),
            std::sync::Arc::new(tunneld_platform::subprocess::TokioPrograms),
        );
        let spec = serde_json::json!({ "host": "127.0.0.1", "port": 1, "ssh_config": false });
        let spec = ad_hoc("t", &spec, &loader).await.unwrap();
        let shared = Shared {
            board: StatusRegistry::new(),
            gate: ConnectLimiter::new(1),
            prompts: Arc::default(),
            recent: Arc::default(),
            refresher: RefreshHandle::default(),
        };
        let (commands, inbox) = mpsc::channel(1);
        let mut task = Task::new(Arc::new(spec), Desired::Up, shared, inbox);
        task.step(Event::WantUp);
        Self {
            task,
            _commands: commands,
        }
    }

    /// The dial asks for a password.
    fn asks(&mut self) -> oneshot::Receiver<Vec<SecretString>> {
        let question = PromptRequest {
            kind: PromptKind::Password,
            host: "ada@login:22".into(),
            note: String::new(),
            text: "A password.".into(),
            fields: vec![PromptField {
                label: "Password: ".into(),
                echo: false,
            }],
            fingerprint: None,
        };
        let (answer, answered) = oneshot::channel();
        self.task.ask(PendingPrompt { question, answer });
        answered
    }

    /// A person answers what is asked, or cancels it.
    fn answers(&mut self, answer: Option<&str>) {
        let id = self.task.prompt().expect("a prompt").id;
        let answers = answer.map(|answer| vec![answer.into()]);
        self.task.answer(id, answers).expect("it fits");
    }

    fn connects(&self) -> bool {
        matches!(self.task.machine.state(), State::Connecting { .. })
    }
}

#[tokio::test]
async fn a_cancelled_prompt_is_waited_for_no_more() {
    let mut bench = Bench::dialling().await;
    let mut answered = bench.asks();
    assert!(!bench.connects());
    bench.answers(None);
    assert!(answered.try_recv().is_err());
    assert!(bench.connects(), "{:?}", bench.task.machine.state());
}

#[tokio::test]
async fn an_answer_that_the_dial_did_not_live_to_hear_serves_the_next() {
    let mut bench = Bench::dialling().await;
    drop(bench.asks());
    bench.answers(Some("s3cret"));
    let epoch = bench.task.machine.live_epoch().unwrap();
    let why = Failure::new(FailureKind::Disconnected, "the server hung up");
    bench.task.lost(epoch, why);
    bench.task.step(Event::WantUp);
    let answers = bench.asks().try_recv().unwrap();
    assert_eq!(answers[0].expose_secret(), "s3cret");
    assert!(bench.connects(), "nobody is asked");
}
