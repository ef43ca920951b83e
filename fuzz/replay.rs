//! The committed corpus, run without a fuzzer: part of the tests of the crates whose targets these are.

use std::fs;
use std::path::PathBuf;

/// Runs a target on every file of its corpus; the name is in the message when one fails.
pub(super) fn replay(target: &str, run: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus in {}", folder.display());
    for file in files {
        let data = fs::read(&file).unwrap();
        if let Err(panic) = std::panic::catch_unwind(|| run(&data)) {
            println!("with {}:", file.display());
            std::panic::resume_unwind(panic);
        }
    }
}
