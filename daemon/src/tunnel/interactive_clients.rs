//! Who sits at a terminal and puts prompts to a person there: as long as somebody does, no window opens for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// The tunnels whose prompts each asks, by the order of their coming; no names are all.
type Seats = BTreeMap<u64, Vec<String>>;

/// Those who ask; clones tell of the same ones.
#[derive(Clone, Debug)]
pub struct InteractiveClients(Arc<watch::Sender<Seats>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct ClientGuard {
    seat: u64,
    among: InteractiveClients,
}

impl Default for InteractiveClients {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Seats::new())))
    }
}

impl InteractiveClients {
    /// Somebody asks the prompts of these tunnels; of all where none is named.
    pub fn attend(&self, names: Vec<String>) -> ClientGuard {
        let mut seat = 0;
        self.0.send_modify(|seats| {
            seat = seats.last_key_value().map_or(0, |(last, _)| last + 1);
            seats.insert(seat, names);
        });
        ClientGuard {
            seat,
            among: self.clone(),
        }
    }

    /// Waits until nobody asks the prompts of any of the tunnels that `concerned` says.
    pub async fn nobody(&self, concerned: impl Fn(&str) -> bool) {
        let mut seats = self.0.subscribe();
        let empty = |seats: &Seats| {
            let asks =
                |names: &Vec<String>| names.is_empty() || names.iter().any(|name| concerned(name));
            !seats.values().any(asks)
        };
        // The sender lives as long as `self`.
        let _ = seats.wait_for(empty).await;
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.among.0.send_modify(|seats| {
            seats.remove(&self.seat);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_prompt_is_nobodys_once_all_who_asked_it_are_gone() {
        let attendance = InteractiveClients::default();
        let nobody = |name: &'static str| attendance.nobody(move |of| of == name).now_or_never();
        assert!(nobody("a").is_some());
        let a = attendance.attend(vec!["a".into(), "b".into()]);
        let all = attendance.attend(Vec::new());
        assert!(nobody("a").is_none() && nobody("c").is_none());
        drop(all);
        assert!(nobody("a").is_none() && nobody("c").is_some());
        let again = attendance.attend(vec!["a".into()]);
        drop(a);
        assert!(nobody("a").is_none() && nobody("b").is_some());
        drop(again);
        assert!(nobody("a").is_some());
    }
}
