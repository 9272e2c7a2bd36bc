//! The clients that show prompts to a user at a terminal. While one shows a tunnel's prompts, `on_needs_input` does not
//! open a window for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Client id to the names of the tunnels whose prompts it shows. An empty list means all tunnels.
type Clients = BTreeMap<u64, Vec<String>>;

/// The connected interactive clients. Clones share one list.
#[derive(Clone, Debug)]
pub struct InteractiveClients(Arc<watch::Sender<Clients>>);

/// Registration of one client. Dropping it removes the client.
#[derive(Debug)]
pub struct ClientGuard {
    id: u64,
    clients: InteractiveClients,
}

impl Default for InteractiveClients {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Clients::new())))
    }
}

impl InteractiveClients {
    /// Registers a client that shows the prompts of the named tunnels, or of all tunnels if `names` is empty.
    pub fn register(&self, names: Vec<String>) -> ClientGuard {
        let mut id = 0;
        self.0.send_modify(|clients| {
            id = clients.last_key_value().map_or(0, |(last, _)| last + 1);
            clients.insert(id, names);
        });
        ClientGuard {
            id,
            clients: self.clone(),
        }
    }

    /// Waits until no client shows the prompts of any tunnel for which `is_concerned` returns true.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_until_none(&self, is_concerned: impl Fn(&str) -> bool) {
        let mut clients = self.0.subscribe();
        let none_concerned = |clients: &Clients| {
            let shows = |names: &Vec<String>| {
                names.is_empty() || names.iter().any(|name| is_concerned(name))
            };
            !clients.values().any(shows)
        };
        // Fails only if the sender is gone, and `self` holds it.
        let _ = clients.wait_for(none_concerned).await;
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.clients.0.send_modify(|clients| {
            clients.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_tunnel_has_no_interactive_client_once_all_guards_are_dropped() {
        let clients = InteractiveClients::default();
        let none_for = |name: &'static str| {
            clients
                .wait_until_none(move |of| of == name)
                .now_or_never()
                .is_some()
        };
        assert!(none_for("a"));
        let a_and_b = clients.register(vec!["a".into(), "b".into()]);
        let all = clients.register(Vec::new());
        assert!(!none_for("a") && !none_for("c"));
        drop(all);
        assert!(!none_for("a") && none_for("c"));
        let second = clients.register(vec!["a".into()]);
        drop(a_and_b);
        assert!(!none_for("a") && none_for("b"));
        drop(second);
        assert!(none_for("a"));
    }
}
