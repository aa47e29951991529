//! Medians and quartiles of a handful of rounds.

/// Lower quartile, median, upper quartile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// Quartiles by linear interpolation between the two nearest ranks; `None` of nothing.
pub fn quartiles(values: &[f64]) -> Option<Quartiles> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (sorted.len() - 1) as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        sorted[below] + (sorted[above] - sorted[below]) * place.fract()
    };
    (!sorted.is_empty()).then(|| Quartiles { low: at(0.25), median: at(0.5), high: at(0.75) })
}

pub fn median(values: &[f64]) -> Option<f64> {
    quartiles(values).map(|quartiles| quartiles.median)
}

/// What `cargo test --benches` holds this file to.
pub fn check_itself() {
    assert_eq!(quartiles(&[]), None);
    assert_eq!(quartiles(&[5.0, 1.0, 2.0, 4.0, 3.0]), Some(Quartiles { low: 2.0, median: 3.0, high: 4.0 }));
    assert_eq!(median(&[1.0, 2.0]), Some(1.5));
}
