//! The daemon's SSH sessions without the daemon: [`dial`] against real servers, with a scripted user for the prompts.

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
use tunneld::session::connect_limiter::ConnectPermit;
use tunneld::session::{DialContext, DialState, Established, PhaseReporter, Priority, dial};
use tunneld_config::model::{
    AddKeysToAgent, AddressFamily, Agent, Auth, Crypto, HostKeyChecking, HostKeys, Liveness, Route,
    UpdateHostKeys, Via,
};
use tunneld_tests::sshd::{self, Sshd};

/// A route to `server` with the user's key; its host key is in known_hosts.
pub(crate) fn route(server: &Sshd) -> Route {
    route_at(server, server.port())
}

/// Same as [`route`], through another port of 127.0.0.1, such as a link's.
pub(crate) fn route_at(server: &Sshd, port: u16) -> Route {
    let known = server.dir().join(format!("known_{port}"));
    std::fs::write(&known, server.known_hosts_lines(port).unwrap()).unwrap();
    Route {
        alias: "127.0.0.1".into(),
        host: "127.0.0.1".into(),
        port,
        user: sshd::current_user().unwrap(),
        host_command: Vec::new(),
        address_family: AddressFamily::Any,
        bind_address: None,
        bind_interface: None,
        connect_timeout: Duration::from_secs(20),
        login_timeout: Duration::from_secs(20),
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
            min_rsa_bits: None,
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

/// A user who gives these answers in this order, one per field. `None` cancels the prompt, and so does every prompt
/// after the last answer.
#[derive(Default)]
pub(crate) struct ScriptedUser {
    answers: Vec<Option<&'static str>>,
    prompts: Arc<Mutex<Vec<PromptRequest>>>,
    /// State that the dials with this user share, such as decrypted keys.
    dials: DialState,
}

impl ScriptedUser {
    pub(crate) fn answering(answers: &[Option<&'static str>]) -> Self {
        Self {
            answers: answers.to_vec(),
            prompts: Arc::default(),
            dials: DialState::default(),
        }
    }

    /// The prompts shown so far, in order.
    pub(crate) fn prompts(&self) -> Vec<PromptRequest> {
        self.prompts.lock().unwrap().clone()
    }

    /// Spawns a task that answers the prompts of one dial.
    fn answer_all(&self, mut pending: mpsc::Receiver<PendingPrompt>) -> JoinSet<()> {
        let mut answers: VecDeque<_> = self.answers.iter().copied().collect();
        let prompts = Arc::clone(&self.prompts);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(prompt) = pending.recv().await {
                let fields = prompt.request.fields.len();
                prompts.lock().unwrap().push(prompt.request);
                let fields: Option<Vec<SecretString>> = (0..fields)
                    .map(|_| answers.pop_front().flatten().map(SecretString::from))
                    .collect();
                // Dropping the sender cancels the prompt.
                if let Some(fields) = fields {
                    let _ = prompt.answer.send(fields);
                }
            }
        });
        tasks
    }
}

/// Dials with a user who cancels every prompt.
pub(crate) async fn connect(route: &Route) -> Result<Established, Failure> {
    connect_with(route, &ScriptedUser::default()).await
}

/// Dials with a user who answers the prompts.
pub(crate) async fn connect_with(
    route: &Route,
    user: &ScriptedUser,
) -> Result<Established, Failure> {
    let (asker, pending) = PromptSender::new();
    let _user = user.answer_all(pending);
    let (phases, _receiver) = PhaseReporter::new();
    let context = DialContext {
        tunnel: "lab".into(),
        phases,
        prompts: asker,
        carrier: None,
        permit: ConnectPermit::default(),
        priority: Priority::Other,
        shared: user.dials.clone(),
    };
    dial(route, context).await
}

/// Dials and returns the failure. Panics if the dial succeeds.
pub(crate) async fn refused(route: &Route) -> Failure {
    match connect(route).await {
        Ok(_) => panic!("the session was established"),
        Err(failure) => failure,
    }
}
