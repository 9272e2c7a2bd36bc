use tokio::sync::Notify;

use super::*;
use crate::dns::QueryOutcome;
use crate::forward::ServerListeners;
use crate::forward::context::ForwardOptions;
use crate::session::Session;
use tunneld_config::addr::{BindAddr, HostPort, ListenAddr};
use tunneld_config::model::Forwarding;

fn resolver() -> Resolver<Session> {
    let changed = Arc::new(Notify::new());
    let options = ForwardOptions {
        hold: Duration::from_secs(1),
        forwarding: Forwarding {
            exit_on_failure: false,
            unlink_socket: false,
            socket_mask: 0o177,
            max_connections: 1,
            permit_remote_open: vec![],
            proxy_login: None,
        },
    };
    let listeners = ServerListeners::default();
    let context = ForwardContext::new("t", options, Arc::clone(&changed), listeners);
    let forward = Forward::Dns {
        listen: ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port: 0,
        },
        server: HostPort {
            host: "a".to_owned(),
            port: 53,
        },
    };
    let cell = ForwardCell::new(forward, changed);
    Resolver::new(&Arc::new(context), &Arc::new(cell))
        .unwrap()
        .0
}

#[test]
fn answers_that_slow_clients_do_not_take_use_a_bounded_memory() {
    let resolver = resolver();
    let message = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
    let QueryOutcome::Forward(query) = Query::parse(&message) else {
        panic!("a query");
    };
    let answer = vec![0; crate::dns::MAX_MESSAGE_LEN];
    let whole = MAX_UNWRITTEN / answer.len();
    let (sender, mut answers) = mpsc::channel(whole + 2);
    let reply = || ReplyPath::Stream(sender.clone());
    for _ in 0..whole {
        resolver.reply(reply(), &query, answer.clone());
    }
    resolver.reply(reply(), &query, answer.clone());
    for _ in 0..whole {
        let written = answers.try_recv().unwrap();
        assert_eq!(written.message.len(), answer.len());
    }
    let failed = answers.try_recv().unwrap().message;
    assert_eq!(failed.get(3).map(|codes| codes & 0x0f), Some(2), "SERVFAIL");
    // What is written makes room.
    resolver.reply(reply(), &query, answer.clone());
    let written = answers.try_recv().unwrap();
    assert_eq!(written.message.len(), answer.len());
}
