//! What it costs to hand events over, one at a time and in batches, with and without somebody who takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reqtt_core::command::Event;
use reqtt_core::mailbox::{Mailbox, Wake};

#[derive(Clone, Default)]
struct Bell(Arc<AtomicU64>);

impl Wake for Bell {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn mailbox(c: &mut Criterion) {
    let mut group = c.benchmark_group("mailbox");
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
    for size in [1, 16, 1000] {
        group.throughput(Throughput::Elements(size));
        let mailbox = Mailbox::new(Box::new(Bell::default()));
        let (mut batch, mut taken) = (Vec::new(), Vec::new());
        group.bench_function(BenchmarkId::new("append and take", size), |b| {
            b.iter(|| {
                batch.extend((0..size).map(|token| Event::Done { token }));
                mailbox.append(&mut batch);
                mailbox.take(&mut taken);
                let count = taken.len();
                taken.clear();
                count
            });
        });
    }

    group.throughput(Throughput::Elements(1));
    let mailbox = Arc::new(Mailbox::new(Box::new(Bell::default())));
    let over = Arc::new(AtomicBool::new(false));
    let taker = std::thread::spawn({
        let (mailbox, over) = (mailbox.clone(), over.clone());
        move || {
            let mut taken = Vec::new();
            while !over.load(Ordering::Relaxed) {
                mailbox.take(&mut taken);
                taken.clear();
                std::thread::yield_now();
            }
        }
    });
    let mut batch = Vec::new();
    group.bench_function("append while another thread takes", |b| {
        b.iter(|| {
            batch.push(Event::Done { token: 1 });
            mailbox.append(&mut batch);
        });
    });
    over.store(true, Ordering::Relaxed);
    taker.join().expect("it does not panic");
    group.finish();
}

criterion_group!(benches, mailbox);
criterion_main!(benches);
