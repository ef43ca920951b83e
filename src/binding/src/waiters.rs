//! Who waits for what, by token. A token is not used again: one that is late finds nothing.

use reqtt_core::command::Token;
use slab::Slab;

/// What waits, under tokens of its own making.
pub(crate) struct Waiters<W> {
    entries: Slab<(u32, W)>,
    generation: u32,
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self { entries: Slab::new(), generation: 0 }
    }
}

impl<W> Waiters<W> {
    pub fn add(&mut self, waiter: W) -> Token {
        self.generation = self.generation.wrapping_add(1);
        let index = self.entries.insert((self.generation, waiter));
        u64::from(self.generation) << 32 | index as u64
    }

    pub fn get(&mut self, token: Token) -> Option<&mut W> {
        let (generation, waiter) = self.entries.get_mut((token & 0xFFFF_FFFF) as usize)?;
        (u64::from(*generation) == token >> 32).then_some(waiter)
    }

    pub fn take(&mut self, token: Token) -> Option<W> {
        self.get(token)?;
        Some(self.entries.remove((token & 0xFFFF_FFFF) as usize).1)
    }

    pub fn take_all(&mut self) -> Vec<W> {
        self.entries.drain().map(|(_, waiter)| waiter).collect()
    }
}
