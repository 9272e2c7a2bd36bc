//! The channels by our numbers. A number is free again when both sides have closed it and nobody holds it.

use super::channel::{Channel, Stage};

/// The channels.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Option<Box<Channel>>>,
    free: Vec<u32>,
}

impl Table {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds one; its number.
    pub(crate) fn insert(&mut self, channel: Channel) -> u32 {
        let channel = Some(Box::new(channel));
        if let Some(id) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(id as usize) {
                *slot = channel;
            }
            return id;
        }
        self.slots.push(channel);
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    /// The channel of that number.
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Channel> {
        self.slots.get_mut(id as usize)?.as_deref_mut()
    }

    /// The channel of that number, if both sides have opened it.
    pub(crate) fn standing(&mut self, id: u32) -> Option<&mut Channel> {
        self.get_mut(id)
            .filter(|channel| channel.stage == Stage::Open)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.slots.iter().filter_map(|slot| slot.as_deref())
    }

    /// All of them with their numbers.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Channel)> {
        (0..)
            .zip(&mut self.slots)
            .filter_map(|(id, slot)| Some((id, slot.as_deref_mut()?)))
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, id: u32) -> Option<Box<Channel>> {
        let channel = self.slots.get_mut(id as usize)?.take()?;
        if self.len() == 1 {
            // The last one: a burst of channels leaves no memory behind.
            *self = Self::default();
        } else {
            self.free.push(id);
        }
        Some(channel)
    }
}
