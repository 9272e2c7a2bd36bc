//! Which tunnels have to stop listening before others can start, when tunnels are renamed or a forward moves from one
//! to another. Pure.

use tunneld_config::addr::ListenAddr;
use tunneld_config::model::{Forward, Tunnel};
use tunneld_config::overlap;

/// Returns the names of the tunnels in `before` that listen on a local address which another tunnel in `after` needs.
pub(super) fn listeners_to_release<'a>(
    before: impl IntoIterator<Item = &'a Tunnel>,
    after: &[Tunnel],
) -> Vec<String> {
    let has_to_release = |old: &&Tunnel| {
        let successor = after.iter().find(|new| new.name == old.name);
        let released = old
            .forwards
            .iter()
            .filter(|forward| successor.is_none_or(|new| !new.forwards.contains(forward)))
            .filter_map(local_listen);
        let needed: Vec<&ListenAddr> = after
            .iter()
            .filter(|new| new.name != old.name)
            .flat_map(|new| &new.forwards)
            .filter_map(local_listen)
            .collect();
        released
            .into_iter()
            .any(|released| needed.iter().any(|needed| overlap(released, needed)))
    };
    before
        .into_iter()
        .filter(has_to_release)
        .map(|old| old.name.clone())
        .collect()
}

/// The local address of a forward. `None` for a remote forward, whose address is the server's.
fn local_listen(forward: &Forward) -> Option<&ListenAddr> {
    match forward {
        Forward::Local { listen, .. }
        | Forward::Dynamic { listen }
        | Forward::Dns { listen, .. } => Some(listen),
        Forward::Remote { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunneld_config::{Env, Loader, ad_hoc};

    async fn tunnel(name: &str, forwards: serde_json::Value) -> Tunnel {
        let loader = Loader::new(
            "/none".into(),
            Env::for_tests("/none"),
            std::sync::Arc::new(tunneld_platform::subprocess::TokioPrograms),
        );
        let mut keys = serde_json::json!({ "host": "h", "ssh_config": false });
        keys.as_object_mut()
            .unwrap()
            .extend(forwards.as_object().unwrap().clone());
        ad_hoc(name, &keys, &loader).await.unwrap()
    }

    #[tokio::test]
    async fn a_tunnel_releases_the_addresses_that_another_one_needs() {
        let local = |name| tunnel(name, serde_json::json!({"local_forward": ["8001 h:1"]}));
        let dynamic = |name| tunnel(name, serde_json::json!({"dynamic_forward": ["8002"]}));
        let remote = |name| tunnel(name, serde_json::json!({"remote_forward": ["8001 h:1"]}));
        let (a, b) = (local("a").await, dynamic("b").await);
        let released = |after: &[Tunnel]| listeners_to_release([&a, &b], after);
        assert!(released(&[a.clone(), b.clone()]).is_empty());
        assert!(released(&[]).is_empty(), "no other tunnel needs it");
        assert_eq!(released(&[local("c").await, b.clone()]), ["a"]);
        assert_eq!(released(&[remote("a").await, local("b").await]), ["a"]);
        let swapped = [dynamic("a").await, local("b").await];
        assert_eq!(released(&swapped), ["a", "b"]);
        assert!(released(&[remote("c").await]).is_empty());
    }
}
