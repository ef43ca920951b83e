//! What a request costs in the correlation map, at 100, 10,000 and 1,000,000 pending, and what it weighs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reqtt_core::correlation::{CORRELATION_DATA_LEN, CorrelationMap, CorrelationSource};

type Data = [u8; CORRELATION_DATA_LEN];
type Value = [u8; 64];

const TIMEOUT: u64 = 5_000_000_000;
const BETWEEN: u64 = 10_000;
const VALUE: Value = [7; 64];

/// A map with `n` pending, 10 us apart, all with the same timeout, as 100,000 requests a second leave it.
fn filled(n: usize) -> (CorrelationMap<Value>, Vec<Data>, u64) {
    let (mut source, mut map, mut now) = (CorrelationSource::new(), CorrelationMap::new(), 0);
    let add = |_| {
        let data = source.next();
        now += BETWEEN;
        map.insert(0, &data, now + TIMEOUT, VALUE).unwrap();
        data
    };
    let pending = (0..n).map(add).collect();
    (map, pending, now)
}

fn correlation(c: &mut Criterion) {
    let mut source = CorrelationSource::new();
    c.bench_function("correlation data", |b| b.iter(|| source.next()));

    let mut group = c.benchmark_group("correlation");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(2)).sample_size(20);
    for n in [100, 10_000, 1_000_000] {
        let empty = CorrelationMap::<Value>::new().bytes();
        println!("{n} pending: {} bytes each", (filled(n).0.bytes() - empty) / n);

        let (mut map, mut pending, mut now) = filled(n);
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        group.bench_function(BenchmarkId::new("take a random one + insert", n), |b| {
            b.iter(|| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let data = &mut pending[random as usize % n];
                black_box(map.take(0, data)).unwrap();
                *data = source.next();
                now += BETWEEN;
                map.insert(0, data, now + TIMEOUT, VALUE).unwrap();
                map.next_deadline()
            });
        });

        let (mut map, mut pending, mut now) = filled(n);
        let mut oldest = 0;
        group.bench_function(BenchmarkId::new("take the oldest + insert", n), |b| {
            b.iter(|| {
                let data = &mut pending[oldest];
                oldest = (oldest + 1) % n;
                black_box(map.take(0, data)).unwrap();
                *data = source.next();
                now += BETWEEN;
                map.insert(0, data, now + TIMEOUT, VALUE).unwrap();
                map.next_deadline()
            });
        });

        // From n on, in a map that has room; the time of the growth itself is in "fill".
        let (mut map, _, mut now) = filled(n);
        group.bench_function(BenchmarkId::new("insert", n), |b| {
            b.iter_custom(|iterations| {
                let mut taken = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let batch = left.min(n as u64 / 10);
                    let data: Vec<_> = (0..batch).map(|_| source.next()).collect();
                    let mut ids = Vec::with_capacity(data.len());
                    let start = Instant::now();
                    for data in &data {
                        now += BETWEEN;
                        ids.push(map.insert(0, data, now + TIMEOUT, VALUE).unwrap());
                    }
                    taken += start.elapsed();
                    for id in ids {
                        map.remove(id);
                    }
                    left -= batch;
                }
                taken
            });
        });

        group.bench_function(BenchmarkId::new("a response to nothing", n), |b| {
            b.iter(|| (map.take(0, b"AAAAAAAAAAAAAAAA"), map.ended(0, b"AAAAAAAAAAAAAAAA")));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("correlation, all of them");
    group.measurement_time(Duration::from_secs(3)).sample_size(10);
    for n in [100, 10_000, 1_000_000] {
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(BenchmarkId::new("fill", n), |b| b.iter_with_large_drop(|| filled(n)));
        group.bench_function(BenchmarkId::new("expire", n), |b| {
            b.iter_custom(|iterations| {
                (0..iterations)
                    .map(|_| {
                        let (mut map, ..) = filled(n);
                        let start = Instant::now();
                        map.expire(u64::MAX, |id, space, value| {
                            black_box((id, space, value));
                        });
                        start.elapsed()
                    })
                    .sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, correlation);
criterion_main!(benches);
