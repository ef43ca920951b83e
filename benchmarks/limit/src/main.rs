//! The raw limit: what MQTT 5 request/response costs where the client costs next to nothing. Blocking sockets,
//! packets encoded beforehand, one write for each read, no library. `limit requester`, `limit responder`, and
//! `limit mirror`, a server that answers each request itself. Speaks the protocol of `worker.py`.

mod peers;
mod wire;

use std::collections::HashMap;
use std::process::ExitCode;
use std::str::FromStr;

/// `--name value` for each; flags have no value.
pub struct Settings(HashMap<String, String>);

impl Settings {
    fn parse(arguments: impl Iterator<Item = String>) -> Self {
        let mut arguments = arguments.peekable();
        let mut settings = HashMap::new();
        while let Some(name) = arguments.next() {
            let value = arguments.next_if(|next| !next.starts_with("--")).unwrap_or_default();
            settings.insert(name.trim_start_matches('-').to_owned(), value);
        }
        Self(settings)
    }

    fn flag(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("--{name} is missing"))
    }

    fn number<T: FromStr>(&self, name: &str) -> T {
        self.text(name).parse().unwrap_or_else(|_| panic!("--{name} is no number of its kind"))
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().unwrap_or_default();
    let settings = Settings::parse(arguments);
    match role.as_str() {
        "requester" => peers::requester(&settings),
        "responder" => peers::responder(&settings),
        "mirror" => peers::mirror(),
        _ => {
            eprintln!("usage: limit requester|responder|mirror --port N ...");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
