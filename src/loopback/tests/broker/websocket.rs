//! MQTT over WebSocket: binary frames, subprotocol "mqtt".

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use reqtt_loopback::Broker;
use rumqttc::mqttbytes::QoS::AtMostOnce;
use rumqttc::mqttbytes::v5::{Packet, Subscribe, SubscribeFilter};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::{Client, Hello, broker, message};

type Socket = WebSocketStream<TcpStream>;

async fn open(
    broker: &Broker,
    subprotocol: Option<&'static str>,
) -> Result<(Socket, Option<String>), String> {
    let stream = TcpStream::connect(("127.0.0.1", broker.ws_port())).await.expect("connect");
    let mut request = broker.ws_url().into_client_request().expect("request");
    if let Some(name) = subprotocol {
        request.headers_mut().insert("Sec-WebSocket-Protocol", name.parse().expect("header"));
    }
    let (socket, response) = client_async(request, stream).await.map_err(|error| error.to_string())?;
    let chosen = response.headers().get("Sec-WebSocket-Protocol");
    Ok((socket, chosen.and_then(|value| value.to_str().ok()).map(str::to_owned)))
}

async fn receive(socket: &mut Socket, input: &mut BytesMut) -> Packet {
    while rumqttc::mqttbytes::check(input.iter(), None).is_err() {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => input.extend_from_slice(&bytes),
            other => panic!("binary frame expected, got {other:?}"),
        }
    }
    Packet::read(input, None).expect("decode")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

#[test]
fn packets_travel_in_binary_frames_whole_split_or_together() {
    let broker = broker();
    block_on(async {
        let (mut socket, chosen) = open(&broker, Some("other, mqtt")).await.expect("handshake");
        assert_eq!(chosen.as_deref(), Some("mqtt"));
        let hello = Hello::new("ws");
        let mut out = BytesMut::new();
        Packet::Connect(hello.connect, None, hello.auth).write(&mut out, None).expect("encode");
        let subscribe = Subscribe::new(SubscribeFilter::new("t", AtMostOnce), None);
        Packet::Subscribe(Subscribe { pkid: 1, ..subscribe }).write(&mut out, None).expect("encode");
        let rest = out.split_off(5);
        socket.send(Message::Binary(out.freeze())).await.expect("send");
        socket.send(Message::Binary(rest.freeze())).await.expect("send");
        let mut input = BytesMut::new();
        assert!(matches!(receive(&mut socket, &mut input).await, Packet::ConnAck(_)));
        assert!(matches!(receive(&mut socket, &mut input).await, Packet::SubAck(_)));
        Client::new(&broker, "tcp").publish(message("t", AtMostOnce, &"x".repeat(300_000)));
        let Packet::Publish(publish) = receive(&mut socket, &mut input).await else { panic!("PUBLISH") };
        assert_eq!(publish.payload.len(), 300_000);
        broker.disconnect(0x98);
        assert!(matches!(receive(&mut socket, &mut input).await, Packet::Disconnect(_)));
    });
}

#[test]
fn a_client_without_the_subprotocol_is_refused() {
    let broker = broker();
    block_on(async {
        let refusal = open(&broker, None).await.expect_err("refused");
        assert!(refusal.contains("400"), "{refusal}");
    });
}

#[test]
fn a_text_frame_ends_the_connection() {
    let broker = broker();
    block_on(async {
        let (mut socket, _) = open(&broker, Some("mqtt")).await.expect("handshake");
        socket.send(Message::text("hello")).await.expect("send");
        while let Some(Ok(frame)) = socket.next().await {
            assert!(frame.is_close());
        }
    });
}
