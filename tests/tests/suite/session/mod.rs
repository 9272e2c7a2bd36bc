//! Sessions of the daemon's own, without the daemon: `dial` against real servers.

mod basics;
mod host_keys;
mod logins;
mod revoked;
mod transports;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tunneld::failure::Failure;
use tunneld::prompt::{PendingPrompt, PromptRequest, PromptSender};
use tunneld::session::{DialContext, Established, dial};
use tunneld_config::model::{
    AddKeysToAgent, AddressFamily, Agent, Auth, Crypto, HostKeyChecking, HostKeys, Liveness, Route,
    UpdateHostKeys, Via,
};
use tunneld_tests::sshd::{self, Sshd};

/// A route to `server` with the user's key, its host key known.
pub(crate) fn route(server: &Sshd) -> Route {
    route_at(server, server.port())
}

/// The same through another port of 127.0.0.1.
pub(crate) fn route_at(server: &Sshd, port: u16) -> Route {
    let known = server.dir().join(format!("known_{port}"));
    std::fs::write(&known, server.known_hosts_at(port).unwrap()).unwrap();
    Route {
        alias: "127.0.0.1".into(),
        host: "127.0.0.1".into(),
        port,
        user: sshd::user().unwrap(),
        host_command: Vec::new(),
        address_family: AddressFamily::Any,
        bind_address: None,
        bind_interface: None,
        connect_timeout: Duration::from_secs(20),
        via: Via::Direct,
        auth: Auth {
            identity_files: vec![server.user_key()],
            identity_files_explicit: true,
            identities_only: false,
            agent: Agent::None,
            certificate_files: Vec::new(),
            preferred: ["publickey", "keyboard-interactive", "password"]
                .map(str::to_owned)
                .to_vec(),
            password_prompts: 3,
            password_command: Vec::new(),
            passphrase_command: Vec::new(),
            answers: Vec::new(),
            pubkey_algorithms: Vec::new(),
            add_keys_to_agent: AddKeysToAgent::Never,
        },
        host_keys: HostKeys {
            checking: HostKeyChecking::Strict,
            user_files: vec![known],
            global_files: Vec::new(),
            revoked_files: Vec::new(),
            command: None,
            alias: None,
            hash: false,
            update: UpdateHostKeys::Never,
            algorithms: Vec::new(),
        },
        crypto: Crypto::default(),
        liveness: Liveness {
            interval: Some(Duration::from_secs(2)),
            count_max: 3,
            tcp_keep_alive: true,
            backoff_initial: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        },
    }
}

/// Someone who answers, in this order; `None` is a cancel, and so is whatever comes after the last.
#[derive(Default)]
pub(crate) struct Person {
    answers: Vec<Option<&'static str>>,
    asked: Arc<Mutex<Vec<PromptRequest>>>,
}

impl Person {
    pub(crate) fn who_says(answers: &[Option<&'static str>]) -> Self {
        Self {
            answers: answers.to_vec(),
            asked: Arc::default(),
        }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<PromptRequest> {
        self.asked.lock().unwrap().clone()
    }

    fn sit_down(&self, mut questions: mpsc::Receiver<PendingPrompt>) -> JoinSet<()> {
        let mut answers: VecDeque<_> = self.answers.iter().copied().collect();
        let asked = Arc::clone(&self.asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(question) = questions.recv().await {
                let fields = question.request.fields.len();
                asked.lock().unwrap().push(question.request);
                let given: Option<Vec<SecretString>> = (0..fields)
                    .map(|_| answers.pop_front().flatten().map(SecretString::from))
                    .collect();
                if let Some(given) = given {
                    let _ = question.answer.send(given);
                }
            }
        });
        tasks
    }
}

/// Dials with nobody to be asked.
pub(crate) async fn connect(route: &Route) -> Result<Established, Failure> {
    connect_with(route, &Person::default()).await
}

/// Dials with someone there.
pub(crate) async fn connect_with(route: &Route, person: &Person) -> Result<Established, Failure> {
    let (asker, questions) = PromptSender::new();
    let _person = person.sit_down(questions);
    let (phases, _heard) = mpsc::unbounded_channel();
    let context = DialContext {
        tunnel: "lab".into(),
        phases,
        asker,
        carrier: None,
    };
    dial(route, context).await
}

/// The failure of a dial that must not succeed.
pub(crate) async fn refused(route: &Route) -> Failure {
    match connect(route).await {
        Ok(_) => panic!("the session stands"),
        Err(failure) => failure,
    }
}
