//! The supervisor with tunnels to a port on which nothing listens.

use serde_json::json;
use tunneld_config::{Env, Loader, ad_hoc};
use tunneld_proto::status::{Desired, State};

use super::*;

struct Bench {
    supervisor: Supervisor,
    state_file: Arc<StateFile>,
    _tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state_file = Arc::new(StateFile::open(folder.path().join("state.json")));
        let mut tasks = JoinSet::new();
        Self {
            supervisor: Supervisor::start(1, state_file.clone(), &mut tasks),
            state_file,
            _tasks: tasks,
            _folder: folder,
        }
    }

    async fn wait_for(&self, name: &str, is_reached: impl Fn(&TunnelStatus) -> bool) {
        let (_, mut events) = self.supervisor.subscribe();
        let statuses = || self.supervisor.statuses();
        while !statuses()
            .iter()
            .any(|status| status.name == name && is_reached(status))
        {
            events.recv().await.unwrap();
        }
    }
}

fn keys() -> Value {
    json!({ "host": "127.0.0.1", "port": 1, "ssh_config": false })
}

async fn tunnel(name: &str) -> Tunnel {
    let loader = Loader::new(
        "/none".into(),
        Env::for_tests("/none"),
        Arc::new(tunneld_platform::subprocess::TokioPrograms),
    );
    ad_hoc(name, &keys(), &loader).await.unwrap()
}

#[tokio::test]
async fn a_command_is_recorded_unless_it_names_an_unknown_tunnel() {
    let bench = Bench::new();
    bench
        .supervisor
        .apply(vec![tunnel("a").await])
        .await
        .unwrap();
    assert_eq!(bench.state_file.desired("a"), None);
    bench.supervisor.down(&["a".into()]).await.unwrap();
    assert_eq!(bench.state_file.desired("a"), Some(Desired::Down));
    let unknown = bench.supervisor.up(&["a".into(), "b".into()]).await;
    assert_eq!(unknown.unwrap_err().data.kind, ErrorKind::TunnelNotFound);
    assert_eq!(bench.state_file.desired("a"), Some(Desired::Down));
    assert_eq!(bench.state_file.desired("b"), None);
    bench.supervisor.restart(&["a".into()]).await.unwrap();
    assert_eq!(bench.state_file.desired("a"), Some(Desired::Up));
}

#[tokio::test]
async fn a_restored_tunnel_stays_as_the_user_left_it() {
    let bench = Bench::new();
    bench.state_file.set_desired(&["a".into()], Desired::Down);
    bench.supervisor.restore(tunnel("a").await).await.unwrap();
    bench.supervisor.restore(tunnel("b").await).await.unwrap();
    bench
        .wait_for("a", |status| status.state == State::Stopped)
        .await;
    bench
        .wait_for("b", |status| status.desired == Desired::Up)
        .await;
}

#[tokio::test]
async fn an_ad_hoc_tunnel_is_recorded_until_it_is_removed() {
    let bench = Bench::new();
    bench
        .supervisor
        .add(tunnel("a").await, keys())
        .await
        .unwrap();
    assert_eq!(bench.state_file.ad_hoc()["a"], keys());
    assert_eq!(bench.state_file.desired("a"), Some(Desired::Up));
    bench.supervisor.remove("a").await.unwrap();
    assert!(bench.supervisor.statuses().is_empty());
    assert!(!bench.state_file.is_ad_hoc("a"));
    assert_eq!(bench.state_file.desired("a"), None);
}

#[tokio::test]
async fn removing_an_ad_hoc_tunnel_that_could_not_be_restored_forgets_it() {
    let bench = Bench::new();
    bench.state_file.insert_ad_hoc("a", keys());
    let error = bench.supervisor.remove("a").await.unwrap_err();
    assert_eq!(error.data.kind, ErrorKind::TunnelNotFound);
    assert!(!bench.state_file.is_ad_hoc("a"));
}
