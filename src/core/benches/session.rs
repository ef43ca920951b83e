//! A request and its response through two sessions in memory: all of the core but sockets and threads.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reqtt_core::connection::memory::Pair;

fn session(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
    for qos in [0, 1] {
        for in_flight in [1, 100, 1000] {
            let mut pair = Pair::new(1).unwrap();
            assert_eq!(pair.round_trips(in_flight, qos), in_flight);
            group.throughput(Throughput::Elements(in_flight as u64));
            group.bench_function(BenchmarkId::new(format!("round trips, QoS {qos}"), in_flight), |b| {
                b.iter(|| pair.round_trips(in_flight, qos));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, session);
criterion_main!(benches);
