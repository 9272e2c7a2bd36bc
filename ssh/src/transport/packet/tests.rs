//! Round trips, limits and damage of packets.
