//! The batch queue from the core to whoever waits on the other side. One wake per batch: the sender wakes
//! only when the queue was empty. Knows nothing of event loops.

use std::sync::Mutex;

/// Tells the other side that the mailbox is no longer empty. Called on the I/O thread; must not block.
pub trait Wake: Send + Sync {
    /// Wakes the other side once.
    fn wake(&self);
}

/// A queue that hands over everything at once.
pub struct Mailbox<T> {
    queue: Mutex<Vec<T>>,
    wake: Box<dyn Wake>,
}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    pub fn new(wake: Box<dyn Wake>) -> Self {
        Self { queue: Mutex::new(Vec::new()), wake }
    }

    /// Moves `batch` into the queue, leaving it empty with its capacity. Whether all that came before was taken.
    pub fn append(&self, batch: &mut Vec<T>) -> bool {
        if batch.is_empty() {
            return false;
        }
        let was_empty = {
            let mut queue = self.queue.lock().expect("no panic while the mailbox is locked");
            let was_empty = queue.is_empty();
            queue.append(batch);
            was_empty
        };
        if was_empty {
            self.wake.wake();
        }
        was_empty
    }

    /// Takes everything; `into` must be empty, its capacity is kept for the next batch.
    pub fn take(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.queue.lock().expect("no panic while the mailbox is locked"), into);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Count(Arc<AtomicUsize>);
    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_wakes_once_until_it_is_taken() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let mailbox = Mailbox::new(Box::new(Count(wakes.clone())));
        mailbox.append(&mut vec![1, 2]);
        mailbox.append(&mut vec![3]);
        mailbox.append(&mut vec![]);
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        let mut all = Vec::new();
        mailbox.take(&mut all);
        assert_eq!(all, [1, 2, 3]);
        mailbox.append(&mut vec![4]);
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }
}
