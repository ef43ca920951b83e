//! Runs the broker until standard input ends: `cargo run -p reqtt-loopback --example broker -- [PORT [WS_PORT]]`.

use std::io::Read;

use reqtt_loopback::{Broker, Options};

fn main() -> std::io::Result<()> {
    let mut ports = std::env::args().skip(1).map(|port| port.parse().unwrap_or(0));
    let port = ports.next().unwrap_or(1883);
    let ws_port = ports.next().unwrap_or(0);
    let broker = Broker::start(Options {
        port,
        ws_port,
        response_information: Some("rr/".to_owned()),
        ..Options::default()
    })?;
    println!("{} {}", broker.url(), broker.ws_url());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    println!("{:#?}", broker.stats());
    Ok(())
}
