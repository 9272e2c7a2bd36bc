//! The channels by our channel numbers. A number is reused once both sides have closed the channel and no handle
//! refers to it.

use super::channel::{Channel, ChannelState};

/// Boxed, because the table keeps its size after a burst of channels while the entries are freed.
#[derive(Debug, Default)]
pub(super) struct ChannelTable {
    slots: Vec<Option<Box<Channel>>>,
    free: Vec<u32>,
}

impl ChannelTable {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds a channel and returns its number.
    pub(super) fn insert(&mut self, channel: Channel) -> u32 {
        let channel = Some(Box::new(channel));
        if let Some(id) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(id as usize) {
                *slot = channel;
            }
            return id;
        }
        self.slots.push(channel);
        // `max_channels` bounds the table far below 2^32.
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Channel> {
        self.slots.get_mut(id as usize)?.as_deref_mut()
    }

    /// Returns the channel if it is open on both sides, so that messages for it are allowed.
    pub(super) fn open_mut(&mut self, id: u32) -> Option<&mut Channel> {
        self.get_mut(id)
            .filter(|channel| channel.state == ChannelState::Open)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.slots.iter().filter_map(|slot| slot.as_deref())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Channel)> {
        (0..)
            .zip(&mut self.slots)
            .filter_map(|(id, slot)| Some((id, slot.as_deref_mut()?)))
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Box<Channel>> {
        let channel = self.slots.get_mut(id as usize)?.take()?;
        if self.len() == 1 {
            // It was the last one: free what a burst of channels has allocated.
            *self = Self::default();
        } else {
            self.free.push(id);
        }
        Some(channel)
    }
}
