//! Makes inputs: seeds, changed by bits, bytes, pieces and tokens of the grammar.

use super::Target;

/// The longest input that is made; what is longer is slow, and says nothing that this does not.
pub const INPUT_BYTES_MAX: usize = 4096;

/// Numbers at which something begins or ends.
const EDGES: [u8; 14] = [0, 1, 9, 10, 13, 32, 125, 126, 127, 128, 129, 250, 254, 255];

/// One input for `target`.
pub fn input(target: &Target, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut data = seed(target, random);
    if random.u8(0..4) == 0 {
        let other = seed(target, random);
        let (head, tail) = (random.usize(0..=data.len()), random.usize(0..=other.len()));
        data.truncate(head);
        data.extend_from_slice(&other[tail..]);
    }
    // Some seeds go as they are, with other choices at their head.
    for _ in 0..random.usize(0..8) {
        change(&mut data, target, random);
    }
    data.truncate(INPUT_BYTES_MAX);
    data
}

fn seed(target: &Target, random: &mut fastrand::Rng) -> Vec<u8> {
    match random.choice(target.seeds) {
        Some(seed) if random.u8(0..16) != 0 => seed.to_vec(),
        _ => (0..random.usize(0..64)).map(|_| random.u8(..)).collect(),
    }
}

/// Changes `data` in one place.
pub fn change(data: &mut Vec<u8>, target: &Target, random: &mut fastrand::Rng) {
    let at = random.usize(0..=data.len());
    let end = (at + (1 << random.usize(0..6))).min(data.len());
    match random.u8(0..12) {
        0 if at < data.len() => data[at] ^= 1 << random.u8(0..8),
        1 if at < data.len() => data[at] = EDGES[random.usize(..EDGES.len())],
        2 if at < data.len() => data[at] = random.u8(..),
        3 => data.insert(at, EDGES[random.usize(..EDGES.len())]),
        4 => drop(data.drain(at..end)),
        5 => {
            let piece = data[at..end].to_vec();
            let to = random.usize(0..=data.len());
            data.splice(to..to, piece);
        }
        6 => {
            // Many of the same: where bounds are.
            let piece = random.choice(target.tokens).map_or(&data[at..end], |token| *token);
            let many = piece.repeat(1 << random.usize(0..8));
            let many = many[..many.len().min(INPUT_BYTES_MAX)].to_vec();
            data.splice(at..at, many);
        }
        7 => data.truncate(at),
        8 if !data.is_empty() => {
            // What comes first is the choices: any of them.
            let first = random.usize(0..data.len().min(4));
            data[first] = random.u8(..);
        }
        9 => {
            if let Some(token) = random.choice(target.tokens) {
                data.splice(at..end, token.iter().copied());
            }
        }
        _ => {
            if let Some(token) = random.choice(target.tokens) {
                data.splice(at..at, token.iter().copied());
            }
        }
    }
    data.truncate(4 * INPUT_BYTES_MAX);
}
