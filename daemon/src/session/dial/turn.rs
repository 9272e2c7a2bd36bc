//! The turns of a dial: at its server, and among the dials that the daemon works at.

use futures_util::FutureExt as _;
use tunneld_proto::status::Phase;

use super::{Carrier, Dial};
use crate::failure::Failure;
use crate::session::connect_limiter::{SCOUT_LEASE, Work};
use crate::session::deadline::PausableDeadline;
use crate::session::login_budget::{Credentials, LoginTurn};
use crate::session::server_id::ServerId;
use tunneld_config::model::{Route, Via};

/// Identifies the server that handles the login of this hop.
pub(super) fn server_id(route: &Route, carrier: Option<&Carrier>) -> ServerId {
    let address = format!("{}:{}", route.host, route.port);
    ServerId(match (carrier, &route.via) {
        (Some((name, _)), _) => format!("{name} {address}"),
        // The command decides which machine answers to the host's name.
        (None, Via::Command(command)) => format!("{command} {address}"),
        (None, _) => address,
    })
}

impl Dial<'_> {
    /// Waits until a login may be tried that the server may refuse.
    pub(super) async fn take_login_turn(&self) -> LoginTurn {
        let budgets = self.context.shared.limiter.login_budgets();
        let take = budgets.take(&self.server, Credentials::of(self.route));
        tokio::pin!(take);
        // Most do not wait: their phase must not be shown as `queued` for a moment.
        if let Some(turn) = take.as_mut().now_or_never() {
            return turn;
        }
        self.enter(Phase::Queued);
        take.await
    }

    /// Waits, with an open connection, until the login may be tried. Other dials of the daemon do not wait for it.
    pub(super) async fn wait_before_login(&self, turn: LoginTurn) -> LoginTurn {
        let wait = turn.before_login();
        tokio::pin!(wait);
        if let Some(turn) = wait.as_mut().now_or_never() {
            return turn;
        }
        self.context.permit.release_for_prompt();
        self.enter(Phase::Queued);
        wait.await
    }

    /// Waits until another connection to the server may be made.
    ///
    /// # Errors
    /// What another tunnel met at the server, if it accepts no connections for a while.
    pub(super) async fn take_server_slot(&self) -> Result<(), Failure> {
        let limiter = &self.context.shared.limiter;
        let turned_away = || limiter.turned_away(&self.server).map_or(Ok(()), Err);
        turned_away()?;
        let slots = limiter.server(&self.server);
        let slot = match slots.try_acquire() {
            Some(slot) => slot,
            None => {
                self.enter(Phase::Queued);
                let acquire = slots.acquire(self.context.priority);
                tokio::pin!(acquire);
                match tokio::time::timeout(SCOUT_LEASE, &mut acquire).await {
                    Ok(slot) => slot,
                    Err(_) => {
                        limiter.open_server(&self.server);
                        acquire.await
                    }
                }
            }
        };
        let pending = limiter.pending(&self.server);
        self.context.permit.hold_server(slot, pending);
        // Again: it may have waited behind the dial that was turned away.
        turned_away()
    }

    /// Waits until the daemon may work at one dial more. The clock of `deadline` is stopped meanwhile.
    pub(super) async fn take_work_slot(&self, work: Work, deadline: &PausableDeadline) {
        let slots = self.context.shared.limiter.work(work);
        let slot = match slots.try_acquire() {
            Some(slot) => slot,
            None => {
                let _pause = deadline.pause();
                self.enter(Phase::Queued);
                slots.acquire(self.context.priority).await
            }
        };
        self.context.permit.hold_work(slot);
    }
}
