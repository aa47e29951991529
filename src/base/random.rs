//! Bytes that nobody can guess.

/// Returns random bytes of the system.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = std::array::from_fn(|_| fastrand::u8(..));
    // The system's source does not fail once it has begun; without it, these are still random enough for ids and for keys that
    // the process alone knows.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
