//! See `reqtt_loopback::fuzzing::broker`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reqtt_fuzz::bounded(data, reqtt_loopback::fuzzing::broker));
