//! `count SCENARIO REQUESTS`: so many requests from one session to another, in memory: encoding, correlation map,
//! routing, duplicate cache, acknowledgements. `tests/test_instructions.py` has callgrind count what [`measured`] does.

use reqtt_core::connection::memory::Pair;

/// Warm-up, in requests: buffers have grown, and the duplicate cache forgets as much as it learns.
const WARM: usize = 3000;

#[inline(never)]
fn measured(pair: &mut Pair, requests: usize, in_flight: usize, qos: u8) {
    for _ in 0..requests / in_flight {
        assert_eq!(pair.round_trips(in_flight, qos), in_flight, "each request has its response");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, requests] = &arguments[..] else { panic!("count SCENARIO REQUESTS") };
    let requests = requests.parse().expect("a number of requests");
    let (in_flight, qos, filters) = match scenario.as_str() {
        "qos0" => (1, 0, 1),
        "qos1" => (1, 1, 1),
        "qos1 x100" => (100, 1, 1),
        "qos1, 1000 filters" => (1, 1, 1000),
        other => panic!("there is no scenario {other:?}"),
    };
    let mut pair = Pair::new(filters).expect("valid topics");
    for _ in 0..WARM / in_flight {
        pair.round_trips(in_flight, qos);
    }
    measured(&mut pair, requests, in_flight, qos);
}
