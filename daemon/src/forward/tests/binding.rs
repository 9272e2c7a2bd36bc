//! The first attempt to bind a local address, when the address is held.

use futures_util::FutureExt as _;

use super::*;

#[tokio::test]
async fn the_search_for_the_holder_of_a_port_delays_nothing() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = local(holder.local_addr().unwrap().port());
    let mut fixture = Fixture::new(&[]).await;
    let options = options(Duration::from_secs(30));
    let forwards = [held, local(0)];
    let reconciled = fixture.forwards.reconcile(&forwards, options);
    assert!(
        reconciled.now_or_never().is_some(),
        "it waits for the search"
    );
    let free = fixture.status(1);
    assert_eq!(free.state, ForwardState::Listening, "{free:?}");
    let failed = |status: &ForwardStatus| status.state == ForwardState::Failed;
    fixture.until(0, failed).await;
    let message = fixture.status(0).error.unwrap().message;
    assert!(
        message.contains("in use by another forward of this daemon"),
        "{message}"
    );
}

#[tokio::test]
async fn a_session_waits_for_the_result_of_the_first_attempt_to_bind() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = local(holder.local_addr().unwrap().port());
    let mut fixture = Fixture::new(&[held]).await;
    let (session, incoming, _server) = new_session();
    let failures = fixture.forwards.attach(session, incoming).await;
    assert_eq!(failures.len(), 1);
}
