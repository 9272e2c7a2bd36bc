//! Who has to stop listening before others can begin, when tunnels are renamed or a forward moves between them. Pure.

use tunneld_config::addr::ListenAddr;
use tunneld_config::model::{Forward, Tunnel};
use tunneld_config::overlap;

/// Those of the tunnels `before` that listen where, `after`, another will.
pub(super) fn givers<'a>(
    before: impl IntoIterator<Item = &'a Tunnel>,
    after: &[Tunnel],
) -> Vec<String> {
    let gives = |old: &&Tunnel| {
        let stays = after.iter().find(|new| new.name == old.name);
        let given = old
            .forwards
            .iter()
            .filter(|forward| stays.is_none_or(|new| !new.forwards.contains(forward)));
        let others = after.iter().filter(|new| new.name != old.name);
        let taken: Vec<&ListenAddr> = others
            .flat_map(|new| &new.forwards)
            .filter_map(near)
            .collect();
        given
            .filter_map(near)
            .any(|given| taken.iter().any(|taken| overlap(given, taken)))
    };
    let givers = before.into_iter().filter(gives);
    givers.map(|old| old.name.clone()).collect()
}

/// Where a forward listens on this side.
fn near(forward: &Forward) -> Option<&ListenAddr> {
    match forward {
        Forward::Local { listen, .. } | Forward::Dynamic { listen } => Some(listen),
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
        let mut spec = serde_json::json!({ "host": "h", "ssh_config": false });
        spec.as_object_mut()
            .unwrap()
            .extend(forwards.as_object().unwrap().clone());
        ad_hoc(name, &spec, &loader).await.unwrap()
    }

    #[tokio::test]
    async fn an_address_that_changes_hands_is_given_up_first() {
        let one = |name| tunnel(name, serde_json::json!({"local_forward": ["8001 h:1"]}));
        let other = |name| tunnel(name, serde_json::json!({"dynamic_forward": ["8002"]}));
        let none = |name| tunnel(name, serde_json::json!({"remote_forward": ["8001 h:1"]}));
        let (a, b) = (one("a").await, other("b").await);
        let before = || [&a, &b];
        assert!(givers(before(), &[a.clone(), b.clone()]).is_empty());
        assert!(givers(before(), &[]).is_empty(), "nobody takes it");
        assert_eq!(givers(before(), &[one("c").await, b.clone()]), ["a"]);
        let moved = [none("a").await, one("b").await];
        assert_eq!(givers(before(), &moved), ["a"]);
        let swapped = [other("a").await, one("b").await];
        assert_eq!(givers(before(), &swapped), ["a", "b"]);
        assert!(givers(before(), &[none("c").await]).is_empty());
    }
}
