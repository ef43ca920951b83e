//! A requester (CommandInvoker) and a responder (CommandExecutor) of Azure IoT Operations.
//!
//! `respond PORT TOPIC`: answers in upper case and says what it saw of the request; `bad` is an error of the
//! application, `drop` one of the executor, and `slow` is not answered.
//!
//! `request PORT TOPIC RESPONSE_TOPIC PAYLOAD...`: sends each payload and prints a line of JSON for it. `slow` waits for
//! a second, `invalid` is no UTF-8, and `json` says that it is JSON.

use std::error::Error;
use std::time::Duration;

use azure_iot_operations_mqtt::aio::connection_settings::MqttConnectionSettingsBuilder;
use azure_iot_operations_mqtt::session::{Session, SessionManagedClient, SessionOptionsBuilder};
use azure_iot_operations_protocol::application::ApplicationContextBuilder;
use azure_iot_operations_protocol::common::payload_serialize::{
    DeserializationError, FormatIndicator, PayloadSerialize, SerializedPayload,
};
use azure_iot_operations_protocol::rpc_command::{Executor, Invoker, executor, invoker};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// A payload of text, as users of the library write theirs.
#[derive(Debug, Clone)]
struct Text(String);

impl PayloadSerialize for Text {
    type Error = std::str::Utf8Error;

    fn serialize(self) -> Result<SerializedPayload, Self::Error> {
        let text = "text/plain".to_owned();
        let (payload, content_type) = match self.0.as_str() {
            "invalid" => (vec![0xFF], text),
            "json" => (b"{}".to_vec(), "application/json".to_owned()),
            _ => (self.0.into_bytes(), text),
        };
        let format_indicator = FormatIndicator::UnspecifiedBytes;
        Ok(SerializedPayload { payload, content_type, format_indicator })
    }

    fn deserialize(
        payload: &[u8],
        content_type: Option<&String>,
        _: &FormatIndicator,
    ) -> Result<Self, DeserializationError<Self::Error>> {
        match content_type {
            Some(kind) if !kind.starts_with("text/plain") => {
                Err(DeserializationError::UnsupportedContentType(format!("{kind} is no text")))
            }
            _ => std::str::from_utf8(payload)
                .map(|text| Self(text.to_owned()))
                .map_err(DeserializationError::InvalidPayload),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [side, port, topic, rest @ ..] = arguments.as_slice() else {
        return Err("respond or request".into());
    };
    let settings = MqttConnectionSettingsBuilder::default()
        .client_id(format!("azure-{side}-{}", std::process::id()))
        .hostname("127.0.0.1")
        .tcp_port(port.parse::<u16>()?)
        .use_tls(false)
        .build()?;
    let session = Session::new(SessionOptionsBuilder::default().connection_settings(settings).build()?)?;
    let client = session.create_managed_client();
    tokio::select! {
        outcome = serve(client.clone(), topic), if side == "respond" => outcome,
        outcome = ask(client, topic, rest), if side == "request" => outcome,
        ended = session.run() => Ok(ended?),
    }
}

async fn serve(client: SessionManagedClient, topic: &str) -> Outcome {
    let options =
        executor::OptionsBuilder::default().request_topic_pattern(topic).command_name("power").build()?;
    let mut executor: Executor<Text, Text> =
        Executor::new(ApplicationContextBuilder::default().build()?, client, options)?;
    let mut slow = Vec::new();
    while let Some(request) = executor.recv().await {
        let request = request?;
        let mut seen = request.custom_user_data.clone();
        match request.payload.0.as_str() {
            "drop" => continue,
            "slow" => {
                slow.push(request);
                continue;
            }
            "bad" => executor::application_error_headers(
                &mut seen,
                "no-such-light".into(),
                r#"{"light": "bedroom"}"#.into(),
            )?,
            _ => {
                seen.extend(request.invoker_id.clone().map(|id| ("seen-source".into(), id)));
                seen.extend(request.timestamp.as_ref().map(|at| ("seen-time".into(), at.to_string())));
            }
        }
        let response = executor::ResponseBuilder::default()
            .payload(Text(request.payload.0.to_uppercase()))?
            .custom_user_data(seen)
            .build()?;
        request.complete(response).await?;
    }
    Ok(())
}

async fn ask(client: SessionManagedClient, topic: &str, rest: &[String]) -> Outcome {
    let [response_topic, payloads @ ..] = rest else { return Err("no response topic".into()) };
    let options = invoker::OptionsBuilder::default()
        .request_topic_pattern(topic)
        .response_topic_pattern(response_topic.clone())
        .command_name("power")
        .build()?;
    let invoker: Invoker<Text, Text> =
        Invoker::new(ApplicationContextBuilder::default().build()?, client, options)?;
    for payload in payloads {
        let seconds = if payload == "slow" { 1 } else { 10 };
        let request = invoker::RequestBuilder::default()
            .payload(Text(payload.clone()))?
            .custom_user_data(vec![("room".to_owned(), "bedroom".to_owned())])
            .timeout(Duration::from_secs(seconds))
            .build()?;
        let line = match invoker.invoke(request).await {
            Ok(response) => json!({
                "payload": response.payload.0,
                "content_type": response.content_type,
                "executor": response.executor_id,
                "time": response.timestamp.map(|at| at.to_string()),
                "user_properties": response.custom_user_data,
            }),
            Err(error) => json!({
                "error": format!("{:?}", error.kind),
                "message": error.message,
                "remote": error.is_remote,
                "header": [error.header_name, error.header_value],
                "property": error.property_name,
                "property_value": error.property_value.map_or(Value::Null, |value| format!("{value:?}").into()),
            }),
        };
        println!("{}", json!({"sent": payload, "got": line}));
    }
    Ok(())
}
