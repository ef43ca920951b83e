//! rumqttd PORT WS_PORT TLS_PORT CERTIFICATE KEY MAXIMUM_PACKET_SIZE RESPONSE_INFORMATION

use std::net::{SocketAddr, TcpStream};
use std::{collections::HashMap, env, error::Error, thread, time::Duration};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings, TlsConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    // It has no Response Information, and nothing that could refuse a topic.
    let [port, ws_port, tls_port, certificate, key, maximum, _] = arguments.as_slice() else {
        return Err("seven arguments".into());
    };
    let maximum = maximum.parse()?;
    let listen = |name: &str, port: &str, tls| -> Result<_, Box<dyn Error>> {
        let settings = ServerSettings {
            name: name.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], port.parse()?)),
            tls,
            next_connection_delay_ms: 0,
            connections: ConnectionSettings {
                connection_timeout_ms: 5000,
                max_payload_size: maximum,
                max_inflight_count: 100,
                auth: None,
                external_auth: None,
                dynamic_filters: true,
            },
        };
        Ok((name.to_owned(), settings))
    };
    let tls = TlsConfig::Rustls { capath: None, certpath: certificate.clone(), keypath: key.clone() };
    let config = Config {
        router: RouterConfig {
            max_connections: 1000,
            max_outgoing_packet_count: 200,
            max_segment_size: 100 << 20,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([listen("tcp", port, None)?, listen("tls", tls_port, Some(tls))?])),
        ws: Some(HashMap::from([listen("ws", ws_port, None)?])),
        ..Config::default()
    };
    let running = thread::spawn(|| Broker::new(config).start());
    // Nothing says when it listens.
    for port in [port, ws_port, tls_port] {
        let port = port.parse()?;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if running.is_finished() {
                return Ok(running.join().expect("it does not panic")?);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    println!("ready");
    Ok(running.join().expect("it does not panic")?)
}
