//! What a PUBLISH costs to write and to read: a request, a response, and payloads around the size up to which a
//! message is copied out of the read buffer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use reqtt_core::connection::memory::{decode, encode};
use reqtt_core::message::{Message, Properties};

fn response(payload: usize) -> Message {
    Message {
        topic: Bytes::from_static(b"clients/panel-7/responses/AAAAAAAAAAAAAAAAAAAAAA"),
        payload: Bytes::from(vec![b'x'; payload]),
        qos: 1,
        properties: Properties {
            message_expiry_interval: Some(10),
            correlation_data: Some(Bytes::from_static(b"0123456789abcdef")),
            ..Properties::default()
        },
        ..Message::default()
    }
}

fn request(payload: usize) -> Message {
    let mut message = response(payload);
    message.properties.response_topic = Some(String::from_utf8_lossy(&message.topic).into_owned());
    message.topic = Bytes::from_static(b"cmnd/light-in-bedroom/power");
    message
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
    for payload in [16, 1024, 65_536] {
        group.throughput(Throughput::Elements(1));
        for (what, message) in [("request", request(payload)), ("response", response(payload))] {
            let mut frame = BytesMut::new();
            encode(message.clone(), 7, &mut frame);
            assert_eq!(decode(&mut frame.clone()), Some(message.clone()));

            let mut out = BytesMut::new();
            group.bench_function(BenchmarkId::new(format!("write a {what}"), payload), |b| {
                b.iter_batched(
                    || message.clone(),
                    |message| {
                        out.clear();
                        encode(message, 7, &mut out);
                    },
                    BatchSize::SmallInput,
                );
            });
            group.bench_function(BenchmarkId::new(format!("read a {what}"), payload), |b| {
                b.iter_batched(|| frame.clone(), |mut frame| decode(&mut frame), BatchSize::SmallInput);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
