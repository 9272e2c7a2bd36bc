//! Spaces logins that may be refused, so that a server does not turn this address away because of them.
//!
//! sshd of OpenSSH 9.8 and later (sshd_config(5), PerSourcePenalties) adds 5 s to the penalty of an address for each
//! connection whose login was refused, and turns all connections of the address away once the penalty exceeds 15 s, until
//! it has passed. A few tunnels with a wrong password would thus cut off the others to the same server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tunneld_config::model::{Auth, Route};

use crate::session::server_id::ServerId;

/// What one refused login costs: sshd's 5 s, and a second for the difference of the clocks.
const PENALTY: Duration = Duration::from_secs(6);
/// The penalty that logins of this daemon may have at once. Below sshd's 15 s, to leave room for one refusal of a tunnel
/// that was up.
const LIMIT: Duration = Duration::from_secs(12);
/// Logins that are remembered as accepted, per server.
const MAX_ACCEPTED: usize = 64;
/// A server that no tunnel has dialled for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// The budgets of all servers. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct LoginBudgets {
    // Not a tokio mutex: held for a look-up, never across an await.
    servers: Arc<Mutex<HashMap<ServerId, Budget>>>,
    changed: Arc<Notify>,
}

/// Who logs in, and with what: a login that was accepted is expected to be accepted again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Credentials {
    user: String,
    auth: Auth,
}

impl Credentials {
    pub(super) fn of(route: &Route) -> Self {
        Self {
            user: route.user.clone(),
            auth: route.auth.clone(),
        }
    }
}

#[derive(Debug)]
struct Budget {
    /// Whether the server has penalties. `None` until it has identified itself.
    has_penalties: Option<bool>,
    /// When the penalties of the refused logins have passed.
    penalty_until: Instant,
    /// Logins under way that may be refused.
    doubtful: u32,
    accepted: Vec<Credentials>,
    last_used: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            has_penalties: None,
            penalty_until: now,
            doubtful: 0,
            accepted: Vec::new(),
            last_used: now,
        }
    }

    /// Returns when a login that may be refused can start. `None` if only after another one under way has ended.
    fn start_at(&self, now: Instant) -> Option<Instant> {
        let under_way = PENALTY * (self.doubtful + 1);
        let room = LIMIT.checked_sub(under_way)?;
        Some(self.penalty_until.checked_sub(room).unwrap_or(now).max(now))
    }
}

/// One login that the budget admits. Dropping it without [`LoginTurn::refused`] costs nothing.
#[derive(Debug)]
pub(super) struct LoginTurn {
    budgets: LoginBudgets,
    server: ServerId,
    credentials: Credentials,
    admitted: Admitted,
}

/// Why a login may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admitted {
    /// It is expected to be accepted, or the server has no penalties.
    Freely,
    /// The budget has room for its refusal.
    Doubtful,
    /// The server is not known yet: [`LoginTurn::before_login`] decides.
    Unknown,
}

impl LoginBudgets {
    /// Waits until a login at `server` may be tried. One whose `credentials` the server has accepted before does not wait.
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing.
    pub(super) async fn take(&self, server: &ServerId, credentials: Credentials) -> LoginTurn {
        loop {
            let changed = self.changed.notified();
            match self.try_start(server, &credentials) {
                Ok(admitted) => {
                    return LoginTurn {
                        budgets: self.clone(),
                        server: server.clone(),
                        credentials,
                        admitted,
                    };
                }
                Err(Some(at)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
                Err(None) => changed.await,
            }
        }
    }

    /// Counts a login. As an error, returns when to try again; `None` for when another login has ended.
    fn try_start(
        &self,
        server: &ServerId,
        credentials: &Credentials,
    ) -> Result<Admitted, Option<Instant>> {
        let now = Instant::now();
        let mut servers = self.servers.lock();
        servers.retain(|_, budget| {
            budget.doubtful > 0 || now.duration_since(budget.last_used) < FORGET_AFTER
        });
        let budget = servers
            .entry(server.clone())
            .or_insert_with(|| Budget::new(now));
        budget.last_used = now;
        if budget.accepted.contains(credentials) {
            return Ok(Admitted::Freely);
        }
        match budget.has_penalties {
            None => Ok(Admitted::Unknown),
            Some(false) => Ok(Admitted::Freely),
            Some(true) => match budget.start_at(now) {
                Some(at) if at <= now => {
                    budget.doubtful += 1;
                    Ok(Admitted::Doubtful)
                }
                later => Err(later),
            },
        }
    }

    /// Records how `server` identified itself.
    pub(super) fn note_ident(&self, server: &ServerId, ident: &str) {
        if let Some(budget) = self.servers.lock().get_mut(server) {
            budget.has_penalties = Some(has_penalties(ident));
        }
    }
}

impl LoginTurn {
    /// Returns whether the login must wait for [`LoginTurn::before_login`]: the server was not known when the turn was taken.
    pub(super) fn must_wait(&self) -> bool {
        self.admitted == Admitted::Unknown
    }

    /// Waits as [`LoginBudgets::take`] does, now that the server has identified itself.
    ///
    /// # Cancel safety
    /// Dropping the future gives the turn back.
    pub(super) async fn before_login(self) -> Self {
        let (budgets, server) = (self.budgets.clone(), self.server.clone());
        budgets.take(&server, self.credentials.clone()).await
    }

    /// Records that the server accepted the login.
    pub(super) fn accepted(self) {
        if let Some(budget) = self.budgets.servers.lock().get_mut(&self.server)
            && !budget.accepted.contains(&self.credentials)
        {
            if budget.accepted.len() == MAX_ACCEPTED {
                budget.accepted.remove(0);
            }
            budget.accepted.push(self.credentials.clone());
        }
    }

    /// Records that the server refused the login.
    pub(super) fn refused(self) {
        if let Some(budget) = self.budgets.servers.lock().get_mut(&self.server) {
            let now = Instant::now();
            budget.penalty_until = budget.penalty_until.max(now) + PENALTY;
            budget.accepted.retain(|other| *other != self.credentials);
        }
    }
}

impl Drop for LoginTurn {
    fn drop(&mut self) {
        if self.admitted == Admitted::Doubtful
            && let Some(budget) = self.budgets.servers.lock().get_mut(&self.server)
        {
            budget.doubtful = budget.doubtful.saturating_sub(1);
        }
        self.budgets.changed.notify_waiters();
    }
}

/// Whether a server with this identification has PerSourcePenalties: OpenSSH 9.8 and later.
fn has_penalties(ident: &str) -> bool {
    let version = ident
        .split_once("OpenSSH_")
        .map(|(_, rest)| rest.split_once(' ').map_or(rest, |(version, _)| version));
    let numbers = version.and_then(|version| {
        let (major, rest) = version.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    numbers.is_some_and(|numbers| numbers >= (9, 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;
    use tunneld_config::model::{AddKeysToAgent, Agent};

    fn server() -> ServerId {
        ServerId("a".to_owned())
    }

    fn credentials(user: &str) -> Credentials {
        Credentials {
            user: user.to_owned(),
            auth: Auth {
                identity_files: Vec::new(),
                identity_files_explicit: false,
                identities_only: false,
                agent: Agent::None,
                certificate_files: Vec::new(),
                preferred: Vec::new(),
                password_prompts: 3,
                password_command: Vec::new(),
                passphrase_command: Vec::new(),
                answers: Vec::new(),
                pubkey_algorithms: Vec::new(),
                add_keys_to_agent: AddKeysToAgent::default(),
            },
        }
    }

    async fn take(budgets: &LoginBudgets, user: &str) -> LoginTurn {
        budgets.take(&server(), credentials(user)).await
    }

    async fn known() -> LoginBudgets {
        let budgets = LoginBudgets::default();
        drop(take(&budgets, "scout").await);
        budgets.note_ident(&server(), "SSH-2.0-OpenSSH_10.0p2 Debian-7");
        budgets
    }

    #[test]
    fn penalties_came_with_openssh_9_8() {
        for (ident, expected) in [
            ("SSH-2.0-OpenSSH_9.8", true),
            ("SSH-2.0-OpenSSH_9.9p1 Ubuntu-3", true),
            ("SSH-2.0-OpenSSH_10.0p2 Debian-7", true),
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2", false),
            ("SSH-2.0-OpenSSH_for_Windows_9.5", false),
            ("SSH-2.0-dropbear_2022.83", false),
            ("SSH-2.0-OpenSSH_", false),
        ] {
            assert_eq!(has_penalties(ident), expected, "{ident}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refused_logins_are_spaced_so_that_the_penalty_passes() {
        let budgets = known().await;
        let start = Instant::now();
        let mut at = Vec::new();
        for number in 0..4 {
            let turn = take(&budgets, &number.to_string()).await;
            at.push(start.elapsed().as_secs());
            turn.refused();
        }
        assert_eq!(at, [0, 0, 6, 12]);
    }

    #[tokio::test(start_paused = true)]
    async fn two_doubtful_logins_run_at_once_and_an_accepted_one_admits_its_like() {
        let budgets = known().await;
        let first = take(&budgets, "a").await;
        let second = take(&budgets, "b").await;
        let brief = Duration::from_secs(1);
        let third = take(&budgets, "a");
        assert!(timeout(brief, third).await.is_err(), "both may be refused");
        first.accepted();
        for _ in 0..20 {
            let like = take(&budgets, "a");
            std::mem::forget(timeout(brief, like).await.unwrap());
        }
        second.refused();
        let again = take(&budgets, "b");
        assert!(
            timeout(brief, again).await.is_ok(),
            "one refusal leaves room"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_penalties_is_not_waited_for() {
        let budgets = LoginBudgets::default();
        for _ in 0..10 {
            take(&budgets, "a").await.refused();
        }
    }
}
