//! The broker as a client sees it: raw MQTT packets over sockets.

mod client;
mod connecting;
mod delivery;
mod faults;
mod limits;
mod malformed;
mod recording;
mod sessions;
mod websocket;
