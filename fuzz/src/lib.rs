//! What all targets share: an allocator that counts, so that bytes which make the library allocate out of all
//! proportion are a finding, too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What a run may hold at a time: room for the fixed costs, and a multiple of its input.
const FIXED: usize = 4 << 20;
const FOR_EACH_BYTE: usize = 1024;

/// Runs one input. It may not hold more memory than its size explains, nor keep any.
pub fn bounded(data: &[u8], run: fn(&[u8])) {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    run(data);
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(peak <= FIXED + data.len() * FOR_EACH_BYTE, "{} bytes made it hold {peak}", data.len());
}
