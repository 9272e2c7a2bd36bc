//! The task driven by hand: what it hears is given, its dials lead nowhere.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use super::*;

#[test]
fn an_address_is_gone_only_where_the_system_says_so() {
    assert!(is_ours("[::1]:22".parse().unwrap()));
    assert!(is_ours("127.0.0.1:22".parse().unwrap()));
    assert!(!is_ours("192.0.2.1:22".parse().unwrap()));
    let link_local: Ipv6Addr = "fe80::dead:beef".parse().unwrap();
    let scoped = |scope| SocketAddr::V6(SocketAddrV6::new(link_local, 22, 0, scope));
    assert!(!is_ours(scoped(1)), "not an address of the first interface");
    assert!(!is_ours(scoped(u32::MAX)), "there is no such interface");
    assert!(is_ours(scoped(0)), "without a scope nothing can be told");
}
