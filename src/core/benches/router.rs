//! What it costs to find the most specific of 10, 1,000 and 10,000 filters.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use reqtt_core::topic::{Pattern, Router, matches};

/// A third each: one device's topic, a device's every topic, a command for all devices.
fn filters(n: usize) -> Vec<String> {
    (0..n)
        .map(|n| match n % 3 {
            0 => format!("site/{}/device/{n}/power", n % 17),
            1 => format!("site/{}/device/{n}/#", n % 17),
            _ => format!("site/+/device/+/command{n}"),
        })
        .collect()
}

fn router(c: &mut Criterion) {
    let mut group = c.benchmark_group("router");
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
    for n in [10, 1_000, 10_000] {
        let filters = filters(n);
        let mut router = Router::new();
        for (number, filter) in filters.iter().enumerate() {
            router.insert(filter, number).unwrap();
        }
        for (what, topic, found) in [
            ("literal", "site/6/device/6/power", true),
            ("#", "site/7/device/7/a/b", true),
            ("+, after a dead end", "site/6/device/6/command8", true),
            ("none", "site/6/device/6/nothing", false),
        ] {
            assert_eq!(router.matches(topic), found, "{topic}");
            group.bench_function(BenchmarkId::new(format!("route: {what}"), n), |b| {
                b.iter(|| router.route(topic))
            });
        }
        let topic = "site/6/device/6/command8";
        group.bench_function(BenchmarkId::new("for comparison: one filter after the other", n), |b| {
            b.iter(|| filters.iter().filter(|filter| matches(filter, topic)).count());
        });
    }
    group.finish();

    let pattern = Pattern::parse("site/{site:+}/device/{device}/{rest:#}").unwrap();
    c.bench_function("captures", |b| {
        b.iter(|| pattern.captures("site/7/device/4711/a/b").map(|found| found.len()))
    });
}

criterion_group!(benches, router);
criterion_main!(benches);
