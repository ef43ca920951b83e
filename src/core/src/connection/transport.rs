//! The byte stream under the MQTT packets: TCP, TLS, WebSocket (over either) or a Unix socket. Owns resolving,
//! dialling, certificates and the words for what goes wrong there. Knows nothing of MQTT packets, and has no
//! timeout: the caller's covers all steps together.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Response, generate_request};
use tokio_tungstenite::tungstenite::handshake::{derive_accept_key, machine::TryParse};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, error::ProtocolError};
use zeroize::Zeroizing;

#[cfg(unix)]
use super::socket::Socket;
use crate::error::{Error, Result};
use crate::options::{Address, Options, Pem, Scheme, TlsOptions};

/// RFC 8305, section 5: how long one address may keep the next from being tried.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// For connections whose MQTT keep alive is off: a peer that is gone is noticed all the same.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// Netty's default limit, and so that of brokers built on it, is 65,536 bytes a frame.
const MAX_FRAME: usize = 64 * 1024;
/// More than this before the blank line is no answer to a WebSocket handshake.
const MAX_HEAD: usize = 16 * 1024;

/// An open byte stream. An enum, so that plain TCP costs no call through a table.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    /// Plain TCP, or a Unix socket.
    #[cfg(unix)]
    Socket(Socket),
    Tls(Box<TlsStream<TcpStream>>),
    /// Over `Tcp` or `Tls`.
    Ws(Box<WebSocket<Stream>>),
}

impl Stream {
    /// Sends the TCP acknowledgement of what was read without waiting for data to carry it. A broker that
    /// keeps Nagle's algorithm on (Mosquitto's default) holds its next packet back until then: 40 ms a request.
    #[cfg(target_os = "linux")]
    pub(crate) fn acknowledge_now(&self) {
        let tcp = match self {
            Self::Socket(socket) => return super::socket::acknowledge_now(socket.fd()),
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
            Self::Ws(_) => return,
        };
        // It only costs time where it fails.
        let _ = tcp.set_quickack(true);
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn acknowledge_now(&self) {}
}

macro_rules! delegate {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(unix)]
            Stream::Socket(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
            Stream::Ws(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Socket(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Ws(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown(cx))
    }
}

/// Opens streams to one address, again and again.
pub(crate) struct Connector {
    address: Address,
    maximum_packet_size: usize,
    tls: Option<Tls>,
}

impl Connector {
    /// Reads the certificates, so that a wrong path shows before anything is sent.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a file that is missing or is not what it should be.
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let address = options.address.clone();
        let tls = address
            .scheme
            .is_tls()
            .then(|| Tls::new(options.tls.clone().unwrap_or_default(), &address.host))
            .transpose()?;
        Ok(Self { address, maximum_packet_size: options.maximum_packet_size as usize, tls })
    }

    /// Opens a stream, up to but without the CONNECT packet.
    ///
    /// # Errors
    /// [`Error::Connect`] with what failed and what to do.
    pub(crate) async fn connect(&mut self) -> Result<Stream> {
        let stream = match self.address.scheme {
            Scheme::Mqtt => self.tcp().await.and_then(plain),
            Scheme::Mqtts => self.tls().await,
            Scheme::Ws => match self.tcp().await {
                Ok(stream) => self.web_socket(Stream::Tcp(stream)).await,
                Err(detail) => Err(detail),
            },
            Scheme::Wss => match self.tls().await {
                Ok(stream) => self.web_socket(stream).await,
                Err(detail) => Err(detail),
            },
            Scheme::Unix => self.unix().await,
        };
        stream.map_err(|detail| Error::Connect {
            url: self.address.redacted(),
            reason_code: None,
            reason_string: None,
            detail,
        })
    }

    async fn tcp(&self) -> Result<TcpStream, String> {
        let Address { host, port, .. } = &self.address;
        // Not asked of the resolver (RFC 6761, section 6.3): that would cost a thread, and some
        // systems know only one of the two.
        let addresses: Vec<SocketAddr> = if host.eq_ignore_ascii_case("localhost") {
            vec![(Ipv6Addr::LOCALHOST, *port).into(), (Ipv4Addr::LOCALHOST, *port).into()]
        } else {
            tokio::net::lookup_host((host.as_str(), *port))
                .await
                .map_err(|error| {
                    format!(
                        "the name \"{host}\" could not be resolved ({error}): check the host, and the DNS"
                    )
                })?
                .collect()
        };
        let stream = dial(addresses).await.map_err(|error| describe(&error))?;
        // A request must not wait for the acknowledgement of the one before (Nagle).
        stream.set_nodelay(true).map_err(|error| describe(&error))?;
        let keepalive =
            socket2::TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE / 4);
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
            log::debug!(target: "reqtt.connection", "TCP keepalive could not be set: {error}");
        }
        Ok(stream)
    }

    async fn tls(&mut self) -> Result<Stream, String> {
        let stream = self.tcp().await?;
        let Some(tls) = &mut self.tls else {
            return Err("no TLS configuration for a URL with TLS".into());
        };
        if !tls.options.verify {
            log::warn!(
                target: "reqtt.connection",
                "TLS verification is off for {}: anybody may pose as this broker; give ca= instead of verify=False",
                self.address.redacted()
            );
        }
        tls.reload();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls.config));
        let stream =
            connector.connect(tls.server_name.clone(), stream).await.map_err(|error| describe(&error))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn web_socket(&self, stream: Stream) -> Result<Stream, String> {
        let config = WebSocketConfig::default()
            .read_buffer_size(MAX_FRAME)
            .write_buffer_size(MAX_FRAME)
            // A frame may hold several packets, so its limit cannot be that of a packet.
            .max_message_size(Some(self.maximum_packet_size.max(64 << 20)))
            .max_frame_size(Some(self.maximum_packet_size.max(64 << 20)));
        let stream = upgrade(stream, &self.address, config).await?;
        Ok(Stream::Ws(Box::new(WebSocket { frames: stream, unread: Bytes::new() })))
    }

    #[cfg(unix)]
    async fn unix(&self) -> Result<Stream, String> {
        let stream = UnixStream::connect(&self.address.path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                "there is no such socket: check the path, and that the broker runs".into()
            }
            io::ErrorKind::PermissionDenied => {
                "this user may not open the socket: check its owner and mode".into()
            }
            _ => describe(&error),
        })?;
        Socket::unix(stream).map(Stream::Socket).map_err(|error| describe(&error))
    }

    #[cfg(not(unix))]
    async fn unix(&self) -> Result<Stream, String> {
        Err("this system has no Unix sockets: use mqtt://".into())
    }
}

/// TCP with nothing in between.
#[cfg(unix)]
fn plain(stream: TcpStream) -> Result<Stream, String> {
    Socket::tcp(stream).map(Stream::Socket).map_err(|error| describe(&error))
}

#[cfg(not(unix))]
fn plain(stream: TcpStream) -> Result<Stream, String> {
    Ok(Stream::Tcp(stream))
}

/// Tries the addresses in order; one that does not answer does not keep the next from being tried.
async fn dial(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut addresses = addresses.into_iter();
    // Dropped with this future, it ends the attempts that are still under way.
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = addresses.next() {
            attempts.spawn(TcpStream::connect(address));
        }
        let outcome = if addresses.len() == 0 {
            attempts.join_next().await
        } else {
            match tokio::time::timeout(ATTEMPT_DELAY, attempts.join_next()).await {
                Ok(outcome) => outcome,
                Err(_) => continue,
            }
        };
        match outcome {
            None => return Err(failure),
            Some(Ok(Ok(stream))) => return Ok(stream),
            // "Refused" says more than the "unreachable" of an address family that this machine lacks.
            Some(Ok(Err(error))) if failure.kind() != io::ErrorKind::ConnectionRefused => failure = error,
            Some(Ok(Err(_))) => {}
            Some(Err(error)) => failure = io::Error::other(error),
        }
    }
}

/// TLS configuration, and what it was made from.
struct Tls {
    options: TlsOptions,
    server_name: ServerName<'static>,
    material: Material,
    /// Kept over reconnects: it holds the sessions to resume.
    config: Arc<ClientConfig>,
}

impl Tls {
    fn new(options: TlsOptions, host: &str) -> Result<Self> {
        let name = options.server_name.as_deref().unwrap_or(host);
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| {
            Error::InvalidArgument(format!(
                "tls: \"{name}\" is neither a DNS name nor an IP address: give the name in the certificate as server_name="
            ))
        })?;
        let material = Material::read(&options)?;
        let config = material.configure(&options)?;
        Ok(Self { options, server_name, material, config })
    }

    /// Takes up certificates that were renewed on disk since the last connect. Anything wrong with them (a file half
    /// written, perhaps) leaves the old ones in use. The files are few and small, so they are read in place.
    fn reload(&mut self) {
        let renewed = Material::read(&self.options).and_then(|material| {
            if material != self.material {
                self.config = material.configure(&self.options)?;
                self.material = material;
            }
            Ok(())
        });
        if let Err(error) = renewed {
            log::warn!(
                target: "reqtt.connection",
                "the TLS files were not read again, those read before stay in use: {error}"
            );
        }
    }
}

/// The bytes of the PEM files.
#[derive(PartialEq)]
struct Material {
    ca: Option<Zeroizing<Vec<u8>>>,
    cert: Option<Zeroizing<Vec<u8>>>,
    key: Option<Zeroizing<Vec<u8>>>,
}

impl Material {
    fn read(options: &TlsOptions) -> Result<Self> {
        Ok(Self {
            ca: read_pem("ca", options.ca.as_ref())?,
            cert: read_pem("cert", options.cert.as_ref())?,
            key: read_pem("key", options.key.as_ref())?,
        })
    }

    fn configure(&self, options: &TlsOptions) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::InvalidArgument(format!("tls: {error}")))?;
        let builder = if options.verify {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots(options)?), provider)
                    .build()
                    .map_err(|error| {
                        Error::InvalidArgument(format!("tls: {}: {error}", whence("ca", &options.ca)))
                    })?;
            builder.with_webpki_verifier(verifier)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        };
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let whence_key = whence("key", &options.key);
                let chain = certificates(cert, &whence("cert", &options.cert))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
                    Error::InvalidArgument(format!(
                        "tls: {whence_key} holds no usable private key ({error}): give PEM in PKCS#8, PKCS#1 or SEC1 \
                         form, not encrypted (`openssl pkey` takes the passphrase off)"
                    ))
                })?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    Error::InvalidArgument(format!(
                        "tls: cert= and {whence_key} do not go together ({error}): give the key of that certificate"
                    ))
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        Ok(Arc::new(config))
    }

    fn roots(&self, options: &TlsOptions) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = &self.ca {
            let whence = whence("ca", &options.ca);
            for certificate in certificates(ca, &whence)? {
                roots.add(certificate).map_err(|error| {
                    Error::InvalidArgument(format!(
                        "tls: {whence} holds a certificate that cannot be used ({error}): give that of the authority"
                    ))
                })?;
            }
        } else {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                let errors: Vec<_> = system.errors.iter().map(ToString::to_string).collect();
                return Err(Error::InvalidArgument(format!(
                    "tls: this system has no root certificates ({}): install them (the package is mostly called ca-certificates), or give ca=",
                    if errors.is_empty() { "none found".into() } else { errors.join("; ") }
                )));
            }
        }
        Ok(roots)
    }
}

fn read_pem(argument: &str, pem: Option<&Pem>) -> Result<Option<Zeroizing<Vec<u8>>>> {
    Ok(Some(match pem {
        None => return Ok(None),
        Some(Pem::Inline(text)) => Zeroizing::new(text.as_bytes().to_vec()),
        Some(Pem::Path(path)) => std::fs::read(path).map(Zeroizing::new).map_err(|error| {
            Error::InvalidArgument(format!(
                "tls: {argument}=\"{}\" cannot be read ({error}): check the path and its permissions",
                path.display()
            ))
        })?,
    }))
}

fn certificates(pem: &[u8], whence: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| {
        Error::InvalidArgument(format!("tls: {whence} is not PEM ({error}): check the file"))
    })?;
    if found.is_empty() {
        return Err(Error::InvalidArgument(format!(
            "tls: {whence} holds no certificate: give a PEM file with -----BEGIN CERTIFICATE-----"
        )));
    }
    Ok(found)
}

/// The argument as it was given, for messages; of an inline one only the name.
fn whence(argument: &str, pem: &Option<Pem>) -> String {
    match pem {
        Some(Pem::Path(path)) => format!("{argument}=\"{}\"", path.display()),
        _ => format!("{argument}="),
    }
}

/// `verify=False`: takes any certificate, but its holder must still own its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The HTTP upgrade. Not tungstenite's `client_async`: that fails where a server leaves out the subprotocol, as some
/// do. Its parts do the work.
async fn upgrade(
    mut stream: Stream,
    address: &Address,
    config: WebSocketConfig,
) -> Result<WebSocketStream<Stream>, String> {
    let broken = |error: &dyn std::fmt::Display| format!("the WebSocket handshake failed: {error}");
    // The userinfo is MQTT's, not HTTP's: it stays out of the request.
    let mut request = format!("{}://{}{}", address.scheme.name(), address.host_port(), address.path)
        .into_client_request()
        .map_err(|error| broken(&error))?;
    // [MQTT-6.0.0-3]
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let (request, key) = generate_request(request).map_err(|error| broken(&error))?;
    stream.write_all(&request).await.map_err(|error| broken(&describe(&error)))?;
    stream.flush().await.map_err(|error| broken(&describe(&error)))?;

    let mut head = BytesMut::with_capacity(1024);
    let (length, response) = loop {
        if stream.read_buf(&mut head).await.map_err(|error| broken(&describe(&error)))? == 0 {
            return Err(broken(
                &"the server closed the connection: check that it speaks WebSocket on this port",
            ));
        }
        match Response::try_parse(&head) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) if head.len() < MAX_HEAD => {}
            Ok(None) | Err(_) => {
                return Err(broken(
                    &"the server's answer is not HTTP: check that it speaks WebSocket on this port",
                ));
            }
        }
    };
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let status = response.status();
    match status.as_u16() {
        101 => {}
        404 => return Err(broken(&format!("HTTP {status}: check the path \"{}\"", path_only(address)))),
        401 | 403 => {
            return Err(broken(&format!(
                "HTTP {status}: the server (or a proxy before it) does not let this client in"
            )));
        }
        300..=399 => {
            let to = header("location").map_or("elsewhere", |to| to.split('?').next().unwrap_or_default());
            return Err(broken(&format!("HTTP {status}: the server redirects to {to}: use that address")));
        }
        _ => {
            return Err(broken(&format!(
                "HTTP {status}: check that the path and the port are those of MQTT over WebSocket"
            )));
        }
    }
    let accepted = header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
        && header("sec-websocket-accept") == Some(derive_accept_key(key.as_bytes()).as_str());
    if !accepted {
        return Err(broken(&"the server's answer has not the Upgrade and Sec-WebSocket-Accept of RFC 6455"));
    }
    match header("sec-websocket-protocol") {
        Some("mqtt") => {}
        // RFC 6455, section 4.1: one that was not asked for fails the connection.
        Some(other) => {
            return Err(broken(&format!("the server chose the subprotocol \"{other}\", not mqtt")));
        }
        None => log::debug!(
            target: "reqtt.connection",
            "the WebSocket server at {} names no subprotocol; mqtt is assumed",
            address.redacted()
        ),
    }
    let rest = head.split_off(length).to_vec();
    Ok(WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config)).await)
}

fn path_only(address: &Address) -> &str {
    address.path.split('?').next().unwrap_or_default()
}

/// Bytes in and out of binary frames. A packet may span frames and a frame may hold several (section 6).
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    frames: WebSocketStream<S>,
    unread: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// The frame is only buffered: a batch of writes leaves with the flush after it.
    fn poll_send(&mut self, cx: &mut Context<'_>, frame: impl FnOnce() -> Bytes) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(ws_to_io)?;
        let frame = frame();
        let length = frame.len();
        Pin::new(&mut self.frames).start_send(Message::Binary(frame)).map_err(ws_to_io)?;
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(frame))) => self.unread = frame,
                Some(Ok(Message::Text(_))) => {
                    // [MQTT-6.0.0-1]
                    let text = "the server sent a WebSocket text frame; MQTT goes in binary frames";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                // The next poll writes the pong, or the answer to the close.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(ws_to_io(error))),
            }
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, || Bytes::copy_from_slice(&buf[..buf.len().min(MAX_FRAME)]))
    }

    /// One frame for all the buffers, as far as they fit.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(MAX_FRAME);
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, || {
            let mut frame = BytesMut::with_capacity(length);
            for buf in bufs {
                let room = length - frame.len();
                frame.extend_from_slice(&buf[..buf.len().min(room)]);
            }
            frame.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(ws_to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_close(cx).map_err(ws_to_io)
    }
}

fn ws_to_io(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        WsError::ConnectionClosed
        | WsError::AlreadyClosed
        | WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing) => {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the server closed the WebSocket")
        }
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// What failed and what to do, for an error of a [`Stream`]. Also for the first read after `connect`: in TLS 1.3 a server
/// that refuses the client's certificate says so only then.
pub(crate) fn describe(error: &io::Error) -> String {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return describe_tls(error);
    }
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            return "connection refused: nobody listens there: check host and port, and that the broker runs"
                .into();
        }
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable => {
            "the host cannot be reached from here: check the host, the network and the routes"
        }
        io::ErrorKind::TimedOut => "the host did not answer: check host and port, and the firewalls between",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            "the other end closed the connection: check that the port is that of this URL's scheme, and see the broker's log"
        }
        io::ErrorKind::UnexpectedEof => {
            "the other end closed the connection early: check that the port is that of this URL's scheme, and see the broker's log"
        }
        io::ErrorKind::PermissionDenied => "this process may not connect there: check the firewall",
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}

fn describe_tls(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    let advice = match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "the server's certificate is from an authority that is not trusted here: give the authority's certificate as ca="
            }
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "the server's certificate has expired: renew it, or set this machine's clock"
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: set this machine's clock"
            }
            // rustls tells which names the certificate has.
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the server's certificate is for another name: use that name in the URL, or give it as server_name="
            }
            Bad::BadSignature => {
                "the server's certificate was not signed by the authority it names: check ca= (an authority made anew has the old name and another key)"
            }
            Bad::Revoked => "the server's certificate was revoked: renew it",
            _ => {
                "the server's certificate cannot be accepted: check it (a certificate made as an authority does not do for a server), or ca="
            }
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the server requires a client certificate: give cert= and key="
            }
            AlertDescription::NoApplicationProtocol => {
                "the server speaks none of the protocols in alpn=: correct it"
            }
            AlertDescription::UnrecognisedName => {
                "the server does not know the name that it was asked for: correct the host, or server_name="
            }
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
                "the server refuses the handshake: it must offer TLS 1.2 or 1.3, and may require a client certificate (cert=, key=)"
            }
            _ => "the server refuses this client: check cert= and key=, and see the broker's log",
        },
        rustls::Error::InvalidMessage(_) => {
            "the answer is not TLS: use the port for TLS, or a URL without it (mqtt://, ws://)"
        }
        rustls::Error::PeerIncompatible(_) => {
            "the server offers nothing in common: it must offer TLS 1.2 or 1.3"
        }
        _ => "see the broker's log",
    };
    format!("TLS: {error}: {advice}")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures_util::{SinkExt as _, StreamExt as _};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::server::WebPkiClientVerifier;
    use tokio_tungstenite::accept_hdr_async;
    use tokio_tungstenite::tungstenite::handshake::server;

    use super::*;
    use crate::options::Secret;

    /// A certificate authority of the test's own.
    struct Authority(CertifiedIssuer<'static, KeyPair>);

    /// What it issues: certificate and key as PEM.
    struct Issued {
        cert: String,
        key: String,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            // A name of its own: rustls looks for the issuer by name.
            params.distinguished_name.push(DnType::CommonName, format!("CA {}", fastrand::u64(..)));
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn issue(&self, name: &str) -> Issued {
            self.issue_until(name, 2100)
        }

        fn issue_until(&self, name: &str, year: i32) -> Issued {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 1, 1);
            let key = KeyPair::generate().unwrap();
            Issued { cert: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
        }

        fn pem(&self) -> Pem {
            inline(self.0.pem())
        }

        fn roots(&self) -> Arc<RootCertStore> {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            Arc::new(roots)
        }
    }

    fn inline(pem: String) -> Pem {
        Pem::Inline(Secret::from(pem))
    }

    fn server_config(issued: &Issued, clients: Option<&Authority>) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(authority.roots(), provider).build().unwrap(),
            ),
        };
        let chain = certificates(issued.cert.as_bytes(), "cert").unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        builder.with_single_cert(chain, key).unwrap()
    }

    async fn listen() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    }

    /// Echoes to every client whose handshake succeeds.
    async fn tls_server(config: ServerConfig) -> u16 {
        let (listener, port) = listen().await;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        echo(stream).await;
                    }
                });
            }
        });
        port
    }

    fn options(url: &str) -> Options {
        let options = Options::new(url).unwrap();
        options.validate().unwrap();
        options
    }

    async fn connect(url: &str) -> Result<Stream> {
        Connector::new(&options(url))?.connect().await
    }

    async fn connect_tls(url: &str, tls: TlsOptions) -> Result<Stream> {
        let mut options = options(url);
        options.tls = Some(tls);
        options.validate()?;
        Connector::new(&options)?.connect().await
    }

    fn trusting(authority: &Authority) -> TlsOptions {
        TlsOptions { ca: Some(authority.pem()), ..TlsOptions::default() }
    }

    async fn round_trip(stream: &mut Stream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        let mut answer = vec![0; bytes.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    async fn assert_echoes(mut stream: Stream) {
        assert_eq!(round_trip(&mut stream, b"\x10\x00ping").await.unwrap(), b"\x10\x00ping");
    }

    fn assert_says(outcome: Result<Stream>, parts: &[&str]) {
        let text = outcome.unwrap_err().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("reqtt-transport-{}-{name}", std::process::id()))
    }

    #[tokio::test]
    async fn tcp_carries_bytes_without_delay() {
        let (listener, port) = listen().await;
        tokio::spawn(async move { echo(listener.accept().await.unwrap().0).await });
        let stream = connect(&format!("mqtt://127.0.0.1:{port}")).await.unwrap();
        #[cfg(unix)]
        {
            let Stream::Socket(socket) = &stream else { panic!("{stream:?}") };
            assert!(rustix::net::sockopt::tcp_nodelay(socket.fd()).unwrap());
        }
        assert_echoes(stream).await;
    }

    #[tokio::test]
    async fn localhost_is_both_loopback_addresses() {
        // This one listens on IPv4 only: ::1 is tried, and does not end it.
        let (listener, port) = listen().await;
        tokio::spawn(async move { echo(listener.accept().await.unwrap().0).await });
        assert_echoes(connect(&format!("mqtt://localhost:{port}")).await.unwrap()).await;

        let Ok(listener) = TcpListener::bind("[::1]:0").await else { return };
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                tokio::spawn(echo(listener.accept().await.unwrap().0));
            }
        });
        assert_echoes(connect(&format!("mqtt://[::1]:{port}")).await.unwrap()).await;
        assert_echoes(connect(&format!("mqtt://localhost:{port}")).await.unwrap()).await;
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_keep_the_next_from_being_tried() {
        let (listener, port) = listen().await;
        // RFC 5737: nobody has the first; packets to it are dropped, or refused by a router.
        let addresses = vec![([192, 0, 2, 1], port).into(), (Ipv4Addr::LOCALHOST, port).into()];
        let stream = tokio::time::timeout(Duration::from_secs(5), dial(addresses)).await.unwrap().unwrap();
        assert_eq!(stream.local_addr().unwrap(), listener.accept().await.unwrap().1);
        assert_eq!(dial(Vec::new()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_refused_connection_says_so() {
        let (listener, port) = listen().await;
        drop(listener);
        for host in ["127.0.0.1", "localhost"] {
            let error = connect(&format!("mqtt://alice:hunter2@{host}:{port}")).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "cannot connect to mqtt://{host}:{port}: connection refused: nobody listens there: \
                     check host and port, and that the broker runs"
                )
            );
        }
    }

    #[tokio::test]
    async fn an_unknown_name_says_so() {
        // RFC 6761: nobody may have it.
        assert_says(
            connect("mqtt://broker.invalid").await,
            &["\"broker.invalid\" could not be resolved", "check the host"],
        );
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_unix_socket_carries_bytes() {
        let path = temporary("socket");
        let url = format!("unix://{}", path.display());
        assert_says(connect(&url).await, &["there is no such socket"]);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move { echo(listener.accept().await.unwrap().0).await });
        let stream = connect(&url).await;
        std::fs::remove_file(&path).unwrap();
        assert_echoes(stream.unwrap()).await;
    }

    #[tokio::test]
    async fn tls_trusts_its_own_authority_and_the_right_name_only() {
        let authority = Authority::new();
        let port = tls_server(server_config(&authority.issue("broker.test"), None)).await;
        let url = format!("mqtts://localhost:{port}");

        assert_says(
            connect_tls(&url, trusting(&authority)).await,
            &["broker.test", "give it as server_name="],
        );
        let named = TlsOptions { server_name: Some("broker.test".into()), ..trusting(&authority) };
        assert_echoes(connect_tls(&url, named.clone()).await.unwrap()).await;

        let other = TlsOptions { ca: Some(Authority::new().pem()), ..named };
        assert_says(connect_tls(&url, other).await, &["not trusted here", "ca="]);

        let off = TlsOptions { verify: false, ..TlsOptions::default() };
        assert_echoes(connect_tls(&url, off).await.unwrap()).await;
    }

    #[tokio::test]
    async fn the_system_does_not_trust_the_tests_authority() {
        let port = tls_server(server_config(&Authority::new().issue("localhost"), None)).await;
        let text = connect(&format!("mqtts://localhost:{port}")).await.unwrap_err().to_string();
        // A minimal container has no roots at all.
        assert!(text.contains("not trusted here") || text.contains("no root certificates"), "{text}");
    }

    #[tokio::test]
    async fn tls_takes_an_ip_address_as_the_name() {
        let authority = Authority::new();
        let port = tls_server(server_config(&authority.issue("127.0.0.1"), None)).await;
        let stream = connect_tls(&format!("mqtts://127.0.0.1:{port}"), trusting(&authority)).await;
        assert_echoes(stream.unwrap()).await;
    }

    #[tokio::test]
    async fn tls_refuses_an_expired_certificate() {
        let authority = Authority::new();
        let port = tls_server(server_config(&authority.issue_until("localhost", 2001), None)).await;
        let outcome = connect_tls(&format!("mqtts://localhost:{port}"), trusting(&authority)).await;
        assert_says(outcome, &["has expired", "clock"]);
    }

    #[tokio::test]
    async fn a_required_client_certificate_is_sent_or_asked_for() {
        let authority = Authority::new();
        let port = tls_server(server_config(&authority.issue("localhost"), Some(&authority))).await;
        let url = format!("mqtts://localhost:{port}");

        let client = authority.issue("panel-7");
        let tls = TlsOptions {
            cert: Some(inline(client.cert)),
            key: Some(inline(client.key)),
            ..trusting(&authority)
        };
        assert_echoes(connect_tls(&url, tls.clone()).await.unwrap()).await;

        // TLS 1.3: the client's handshake is over before the server has looked.
        let mut stream = connect_tls(&url, trusting(&authority)).await.unwrap();
        let error = stream.read_u8().await.unwrap_err();
        assert!(describe(&error).contains("requires a client certificate: give cert= and key="), "{error}");

        let mismatch = TlsOptions { key: Some(inline(authority.issue("x").key)), ..tls };
        assert_says(connect_tls(&url, mismatch).await, &["do not go together"]);
    }

    #[tokio::test]
    async fn the_server_sees_the_alpn() {
        let authority = Authority::new();
        let mut config = server_config(&authority.issue("localhost"), None);
        config.alpn_protocols = vec![b"mqtt".to_vec()];
        let port = tls_server(config).await;
        let url = format!("mqtts://localhost:{port}");
        let offering = |name: &str| TlsOptions { alpn: vec![name.into()], ..trusting(&authority) };

        let stream = connect_tls(&url, offering("mqtt")).await.unwrap();
        let Stream::Tls(tls) = &stream else { panic!("{stream:?}") };
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"mqtt"[..]));
        assert_says(connect_tls(&url, offering("http/1.1")).await, &["none of the protocols in alpn="]);
    }

    #[tokio::test]
    async fn tls_to_a_plain_port_says_so() {
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            echo(stream).await;
            // As a broker does on a first packet that is no CONNECT.
            drop(listener.accept().await.unwrap());
        });
        let tls = || TlsOptions { verify: false, ..TlsOptions::default() };
        let url = format!("mqtts://127.0.0.1:{port}");
        assert_says(connect_tls(&url, tls()).await, &["not TLS", "mqtt://"]);
        assert_says(connect_tls(&url, tls()).await, &["closed the connection", "the port is that of"]);
    }

    #[tokio::test]
    async fn missing_and_broken_files_are_named() {
        let url = "mqtts://localhost";
        let authority = Authority::new();
        let with = |argument: &str, pem: Pem| {
            let Issued { cert, key } = authority.issue("x");
            let mut tls =
                TlsOptions { cert: Some(inline(cert)), key: Some(inline(key)), ..trusting(&authority) };
            match argument {
                "ca" => tls.ca = Some(pem),
                "cert" => tls.cert = Some(pem),
                _ => tls.key = Some(pem),
            }
            connect_tls(url, tls)
        };
        let broken = temporary("broken.pem");
        std::fs::write(&broken, "no PEM at all").unwrap();
        for argument in ["ca", "cert", "key"] {
            let missing = Pem::Path("/nonexistent/x.pem".into());
            let part = format!("{argument}=\"/nonexistent/x.pem\" cannot be read");
            assert_says(with(argument, missing).await, &[&part, "check the path"]);
            let part = format!("{argument}=\"{}\" holds no", broken.display());
            assert_says(with(argument, Pem::Path(broken.clone())).await, &[&part]);
            let secret = inline("-----BEGIN CERTIFICATE-----\nhunter2\n".into());
            let text = with(argument, secret).await.unwrap_err().to_string();
            assert!(!text.contains("hunter2"), "{text}");
        }
        std::fs::remove_file(broken).unwrap();
    }

    #[tokio::test]
    async fn renewed_files_are_taken_up_at_the_next_connect() {
        let (old, new) = (Authority::new(), Authority::new());
        let old_port = tls_server(server_config(&old.issue("localhost"), None)).await;
        let new_port = tls_server(server_config(&new.issue("localhost"), None)).await;
        let path = temporary("ca.pem");
        std::fs::write(&path, old.0.pem()).unwrap();
        let mut options = options(&format!("mqtts://localhost:{old_port}"));
        options.tls = Some(TlsOptions { ca: Some(Pem::Path(path.clone())), ..TlsOptions::default() });
        let mut connector = Connector::new(&options).unwrap();
        assert_echoes(connector.connect().await.unwrap()).await;
        let before = Arc::clone(&connector.tls.as_ref().unwrap().config);
        assert_echoes(connector.connect().await.unwrap()).await;
        assert!(Arc::ptr_eq(&before, &connector.tls.as_ref().unwrap().config));

        connector.address.port = new_port;
        assert_says(connector.connect().await, &["not trusted here"]);
        std::fs::write(&path, new.0.pem()).unwrap();
        assert_echoes(connector.connect().await.unwrap()).await;
        // Half written, or gone: what was read before goes on.
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert_echoes(connector.connect().await.unwrap()).await;
        std::fs::remove_file(&path).unwrap();
        assert_echoes(connector.connect().await.unwrap()).await;
    }

    #[expect(clippy::result_large_err, reason = "tungstenite's type")]
    fn speak_mqtt(
        request: &server::Request,
        mut response: server::Response,
    ) -> Result<server::Response, server::ErrorResponse> {
        let mut refusal = server::ErrorResponse::new(None);
        if request.uri() == "/mqtt?a=b" && request.headers()["sec-websocket-protocol"] == "mqtt" {
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
            return Ok(response);
        }
        *refusal.status_mut() = 404.try_into().unwrap();
        Err(refusal)
    }

    /// Sends back what it gets in frames of three bytes with a ping before each; gives the sizes of the frames that came.
    async fn ws_echo(stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<usize> {
        let mut sizes = Vec::new();
        let Ok(mut frames) = accept_hdr_async(stream, speak_mqtt).await else { return sizes };
        let mut pongs = 0;
        while let Some(Ok(message)) = frames.next().await {
            match message {
                Message::Binary(bytes) => {
                    sizes.push(bytes.len());
                    for part in bytes.chunks(3) {
                        frames.feed(Message::Ping(Bytes::new())).await.unwrap();
                        frames.feed(Message::Binary(Bytes::copy_from_slice(part))).await.unwrap();
                    }
                    frames.flush().await.unwrap();
                }
                Message::Pong(_) => pongs += 1,
                _ => {}
            }
        }
        assert!(sizes.is_empty() || pongs > 0);
        sizes
    }

    async fn ws_server() -> (u16, JoinHandle<Vec<usize>>) {
        let (listener, port) = listen().await;
        (port, tokio::spawn(async move { ws_echo(listener.accept().await.unwrap().0).await }))
    }

    #[tokio::test]
    async fn web_socket_frames_are_invisible() {
        let (port, server) = ws_server().await;
        let mut stream = connect(&format!("ws://alice:hunter2@127.0.0.1:{port}?a=b")).await.unwrap();
        assert!(stream.is_write_vectored());
        assert_eq!(round_trip(&mut stream, b"0123456789").await.unwrap(), b"0123456789");
        // A batch of slices is one frame.
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
        assert_eq!(stream.write_vectored(&slices).await.unwrap(), 5);
        stream.flush().await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"abcde");
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        drop(stream);
        assert_eq!(server.await.unwrap(), [10, 5]);
    }

    #[tokio::test]
    async fn a_large_write_goes_in_several_frames() {
        let (port, server) = ws_server().await;
        let stream = connect(&format!("ws://127.0.0.1:{port}/mqtt?a=b")).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            write.write_all(&copy).await.unwrap();
            write.flush().await.unwrap();
            write
        });
        let mut answer = vec![0; sent.len()];
        read.read_exact(&mut answer).await.unwrap();
        assert!(answer == sent);
        drop((read, writer.await.unwrap()));
        assert_eq!(server.await.unwrap(), [MAX_FRAME, MAX_FRAME, MAX_FRAME, 200_000 - 3 * MAX_FRAME]);
    }

    #[tokio::test]
    async fn web_socket_over_tls_carries_bytes() {
        let authority = Authority::new();
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&authority.issue("localhost"), None)));
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            ws_echo(acceptor.accept(listener.accept().await.unwrap().0).await.unwrap()).await
        });
        let stream = connect_tls(&format!("wss://localhost:{port}?a=b"), trusting(&authority)).await.unwrap();
        let Stream::Ws(_) = &stream else { panic!("{stream:?}") };
        assert_echoes(stream).await;
    }

    #[tokio::test]
    async fn a_wrong_path_says_so() {
        let (port, _server) = ws_server().await;
        let outcome = connect(&format!("ws://127.0.0.1:{port}/wrong?token=hunter2")).await;
        let text = outcome.unwrap_err().to_string();
        assert!(text.contains("HTTP 404 Not Found: check the path \"/wrong\""), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[tokio::test]
    async fn web_socket_to_something_else_says_so() {
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"\x20\x02\x00\x00").await.unwrap();
            echo(stream).await;
        });
        assert_says(connect(&format!("ws://127.0.0.1:{port}")).await, &["not HTTP"]);
    }

    #[tokio::test]
    async fn a_server_without_the_subprotocol_is_taken_and_its_text_is_not() {
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut frames = tokio_tungstenite::accept_async(stream).await.unwrap();
            frames.send(Message::Binary(Bytes::from_static(b"x"))).await.unwrap();
            frames.send(Message::Text("hello".into())).await.unwrap();
            frames.next().await
        });
        let mut stream = connect(&format!("ws://127.0.0.1:{port}")).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        let error = stream.read_u8().await.unwrap_err();
        assert!(error.to_string().contains("text frame"), "{error}");
    }
}
