//! mqtt5 PORT WS_PORT TLS_PORT CERTIFICATE KEY MAXIMUM_PACKET_SIZE RESPONSE_INFORMATION

use std::{env, error::Error, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use mqtt5::broker::config::{StorageBackend, StorageConfig, TlsConfig, WebSocketConfig};
use mqtt5::broker::{AuthProvider, AuthResult, BrokerConfig, MqttBroker};
use mqtt5::packet::connect::ConnectPacket;

/// Lets everybody in, and keeps them from denied/...
struct Policy;

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl AuthProvider for Policy {
    fn authenticate<'a>(
        &'a self,
        _: &'a ConnectPacket,
        _: SocketAddr,
    ) -> Answer<'a, mqtt5::Result<AuthResult>> {
        Box::pin(async { Ok(AuthResult::success()) })
    }

    fn authorize_publish<'a>(&'a self, _: &str, _: Option<&'a str>, topic: &'a str) -> Answer<'a, bool> {
        Box::pin(async move { !topic.starts_with("denied/") })
    }

    fn authorize_subscribe<'a>(&'a self, _: &str, _: Option<&'a str>, filter: &'a str) -> Answer<'a, bool> {
        Box::pin(async move { !filter.starts_with("denied/") })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [port, ws_port, tls_port, certificate, key, maximum, information] = arguments.as_slice() else {
        return Err("seven arguments".into());
    };
    let at = |port: &String| -> Result<SocketAddr, Box<dyn Error>> {
        Ok(SocketAddr::from(([127, 0, 0, 1], port.parse()?)))
    };
    let mut config = BrokerConfig::new()
        .with_bind_address(at(port)?)
        .with_max_packet_size(maximum.parse()?)
        .with_websocket(WebSocketConfig::new().with_bind_address(at(ws_port)?))
        .with_tls(TlsConfig::new(certificate.into(), key.into()).with_bind_address(at(tls_port)?))
        .with_storage(StorageConfig::new().with_backend(StorageBackend::Memory));
    config.response_information = Some(information.clone());
    let mut broker = MqttBroker::with_config(config).await?.with_auth_provider(Arc::new(Policy));
    let mut ready = broker.ready_receiver();
    let said = tokio::spawn(async move {
        if ready.wait_for(|ready| *ready).await.is_ok() {
            println!("ready");
        }
    });
    broker.run().await?;
    said.await?;
    Ok(())
}
