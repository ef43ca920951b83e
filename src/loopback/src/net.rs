//! Sockets: owns the listeners, and one task for each connection that reads what has arrived, hands it to the state, and
//! writes what the outbox holds. Knows MQTT only as "CONNECT comes first".

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt, future};
use rumqttc::mqttbytes::v5::Packet;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use crate::connect::Admitted;
use crate::outbox::{Next, Outbox};
use crate::record::frame;
use crate::state::{Farewell, State, Who};
use crate::wire::{self, reason};

/// A client that has not sent its CONNECT by then is closed.
const HELLO: Duration = Duration::from_secs(30);
/// How long a closed connection may take to read its last packets. Closing earlier, with unread input, would reset the
/// connection and could take the DISCONNECT with it.
const LINGER: Duration = Duration::from_millis(250);
/// How long `stop` waits for connections that do not end.
const STOP: Duration = Duration::from_millis(500);
/// Read buffer, and the most that is gathered before it is handled.
const READ: usize = 64 << 10;
const BATCH: usize = 1 << 20;

/// What the broker's thread and its callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Neither read nor write before this time.
    pub stall: watch::Sender<Option<Instant>>,
    /// Changes when connections that have not yet sent CONNECT must go.
    pub hang_up: watch::Sender<()>,
    /// A deadline may have changed.
    pub deadlines: Notify,
    pub stop: Notify,
}

impl Shared {
    pub fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            stall: watch::Sender::new(None),
            hang_up: watch::Sender::new(()),
            deadlines: Notify::new(),
            stop: Notify::new(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detach(&self, who: Who, farewell: Farewell) {
        self.lock().detach(who, farewell);
        self.deadlines.notify_one();
    }

    async fn unstalled(&self) {
        if self.stall.borrow().is_none() {
            return;
        }
        let mut stall = self.stall.subscribe();
        loop {
            let until = *stall.borrow_and_update();
            let Some(until) = until.filter(|until| *until > Instant::now()) else { return };
            tokio::select! {
                () = sleep_until(until.into()) => {}
                _ = stall.changed() => {}
            }
        }
    }
}

/// Serves both listeners until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, tcp: TcpListener, ws: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let deadline = shared.lock().next_deadline();
        tokio::select! {
            biased;
            () = shared.stop.notified() => break,
            () = wait(deadline) => shared.lock().on_deadline(),
            () = shared.deadlines.notified() => {}
            accepted = tcp.accept() => if let Some(stream) = admit(&shared, accepted).await {
                let shared = shared.clone();
                connections.spawn(async move {
                    let (reader, writer) = stream.into_split();
                    converse(shared, reader, writer).await;
                });
            },
            accepted = ws.accept() => if let Some(stream) = admit(&shared, accepted).await {
                connections.spawn(serve_websocket(shared.clone(), stream));
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop((tcp, ws));
    let _ = timeout(STOP, async { while connections.join_next().await.is_some() {} }).await;
}

async fn wait(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => future::pending().await,
    }
}

async fn admit(
    shared: &Shared,
    accepted: io::Result<(TcpStream, std::net::SocketAddr)>,
) -> Option<TcpStream> {
    match accepted {
        Ok((stream, _)) => {
            let nodelay = stream.set_nodelay(true);
            (shared.lock().accepting && nodelay.is_ok()).then_some(stream)
        }
        Err(error) => {
            // Out of file descriptors, as a rule: give others time to close theirs.
            log::warn!("accept: {error}");
            sleep(Duration::from_millis(20)).await;
            None
        }
    }
}

/// MQTT over WebSocket (6): binary frames, subprotocol "mqtt"; packets may span frames.
async fn serve_websocket(shared: Arc<Shared>, stream: TcpStream) {
    let mut hang_up = shared.hang_up.subscribe();
    let handshake = tokio::select! {
        handshake = timeout(HELLO, accept_hdr_async(stream, choose_subprotocol)) => handshake,
        _ = hang_up.changed() => return,
    };
    let Ok(Ok(socket)) = handshake else { return };
    let (sink, stream) = socket.split();
    let bytes = stream.filter_map(|frame| {
        future::ready(match frame {
            Ok(Frame::Binary(bytes)) => Some(Ok(bytes)),
            Ok(Frame::Text(_)) => Some(Err(io::Error::from(io::ErrorKind::InvalidData))),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let sink = sink
        .sink_map_err(io::Error::other)
        .with(|bytes: Bytes| future::ready(Ok::<_, io::Error>(Frame::Binary(bytes))));
    converse(shared, StreamReader::new(bytes), SinkWriter::new(CopyToBytes::new(sink))).await;
}

#[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
fn choose_subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let name = "Sec-WebSocket-Protocol";
    let offered = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
    if offered.flat_map(|value| value.split(',')).any(|protocol| protocol.trim() == "mqtt") {
        response.headers_mut().insert(name, HeaderValue::from_static("mqtt"));
        return Ok(response);
    }
    // [MQTT-6.0.0-3]
    let mut refusal = ErrorResponse::new(Some("subprotocol mqtt required".to_owned()));
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    Err(refusal)
}

/// One connection, from CONNECT to its end.
async fn converse<R, W>(shared: Arc<Shared>, mut reader: R, mut writer: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = BytesMut::with_capacity(READ);
    let mut hang_up = shared.hang_up.subscribe();
    let admitted = tokio::select! {
        admitted = timeout(HELLO, greet(&shared, &mut reader, &mut input)) => admitted,
        _ = hang_up.changed() => return,
    };
    let admitted = match admitted {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(refusal)) => {
            if writer.write_all(&refusal).await.is_ok() {
                linger(&mut reader, &mut writer).await;
            }
            return;
        }
        Err(_) => return,
    };
    let outbox = admitted.outbox.clone();
    tokio::select! {
        biased;
        () = outbox.cut.notified() => {}
        () = exchange(&shared, &admitted, &mut reader, &mut writer, &mut input) => {}
    }
}

/// Waits for CONNECT; Err holds what to write before closing.
async fn greet<R: AsyncRead + Unpin>(
    shared: &Shared,
    reader: &mut R,
    input: &mut BytesMut,
) -> Result<Admitted, Bytes> {
    loop {
        if !gather(reader, input).await {
            return Err(Bytes::new());
        }
        shared.unstalled().await;
        // [MQTT-3.1.0-1]: anything but CONNECT is closed without an answer.
        if input[0] != 0x10 {
            return Err(Bytes::new());
        }
        let mut state = shared.lock();
        let limit = state.options.maximum_packet_size;
        let packet = state.record.as_ref().and_then(|_| frame(input)).map(<[u8]>::to_vec).unwrap_or_default();
        match wire::next_packet(input, limit) {
            Ok(None) => {}
            Ok(Some(Packet::Connect(connect, will, auth))) => {
                let admitted = state.connect(connect, will, &auth, &packet);
                drop(state);
                shared.deadlines.notify_one();
                return admitted;
            }
            Ok(Some(_)) => return Err(Bytes::new()),
            Err(code) => return Err(state.refusal(code, None)),
        }
    }
}

async fn exchange<R, W>(
    shared: &Shared,
    admitted: &Admitted,
    reader: &mut R,
    writer: &mut W,
    input: &mut BytesMut,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    {
        let mut reading = std::pin::pin!(receive(shared, admitted, reader, input));
        let mut writing = std::pin::pin!(transmit(shared, &admitted.outbox, writer));
        tokio::select! {
            biased;
            () = &mut reading => {
                let _ = timeout(LINGER, writing).await;
            }
            written = &mut writing => if written.is_err() {
                // The peer reads no more, but what it sent before may still be here.
                let _ = timeout(LINGER, reading).await;
            },
            () = admitted.outbox.closing.notified() => {
                let _ = timeout(LINGER, writing).await;
            }
        }
    }
    shared.detach(admitted.who, Farewell::Cut);
    linger(reader, writer).await;
}

/// Reads until the connection ends, for whatever reason; then the session has been detached.
async fn receive<R: AsyncRead + Unpin>(
    shared: &Shared,
    admitted: &Admitted,
    reader: &mut R,
    input: &mut BytesMut,
) {
    let who = admitted.who;
    while shared.lock().process(who, input) {
        let gathered = match admitted.patience {
            None => Ok(gather(reader, input).await),
            Some(patience) => timeout(patience, gather(reader, input)).await,
        };
        shared.unstalled().await;
        match gathered {
            Ok(true) => {}
            Ok(false) => return shared.detach(who, Farewell::Cut),
            Err(_) => return shared.detach(who, Farewell::Disconnect(reason::KEEP_ALIVE_TIMEOUT)),
        }
    }
    shared.deadlines.notify_one();
}

/// Everything that can be read without waiting, after the first byte; false at the end of the stream.
async fn gather<R: AsyncRead + Unpin>(reader: &mut R, input: &mut BytesMut) -> bool {
    input.reserve(READ);
    if !matches!(reader.read_buf(input).await, Ok(1..)) {
        return false;
    }
    while input.len() < BATCH {
        input.reserve(READ);
        match reader.read_buf(input).now_or_never() {
            Some(Ok(1..)) => {}
            // The end is found again by the next call; what came before it is handled first.
            _ => break,
        }
    }
    true
}

/// Writes until the outbox is closed and empty.
async fn transmit<W: AsyncWrite + Unpin>(shared: &Shared, outbox: &Outbox, writer: &mut W) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        match outbox.take(&mut buffer) {
            Next::Write => {
                shared.unstalled().await;
                writer.write_all(&buffer).await?;
                writer.flush().await?;
                buffer.clear();
            }
            Next::WaitUntil(due) => {
                tokio::select! {
                    () = outbox.wake.notified() => {}
                    () = wait(due) => {}
                }
            }
            Next::End => return Ok(()),
        }
    }
}

/// Ends the writing side, then waits a little for the peer to end its own.
async fn linger<R, W>(reader: &mut R, writer: &mut W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut sink = [0; 4096];
    let _ = timeout(LINGER, async {
        let _ = writer.shutdown().await;
        while matches!(reader.read(&mut sink).await, Ok(1..)) {}
    })
    .await;
}
