//! See `reqtt_core::fuzzing::responder`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reqtt_fuzz::bounded(data, reqtt_core::fuzzing::responder));
