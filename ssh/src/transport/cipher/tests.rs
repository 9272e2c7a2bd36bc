//! Known answers of the ciphers, and round trips.
