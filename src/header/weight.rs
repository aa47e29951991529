//! Weights, by which a client ranks what it accepts (RFC 9110 §12.4.2).

/// Reads the parameter `q=0.5` as thousandths; `None` for another parameter, or a weight that is malformed.
pub fn weight(parameter: &[u8]) -> Option<u16> {
    let (key, value) = parameter.split_at_checked(2)?;
    key.eq_ignore_ascii_case(b"q=").then(|| quality(value))?
}

/// `qvalue` of RFC 9110 §12.4.2, in thousandths.
fn quality(text: &[u8]) -> Option<u16> {
    let (whole, digits) = match text.split_first()? {
        (whole @ (b'0' | b'1'), []) => (*whole, &[][..]),
        (whole @ (b'0' | b'1'), [b'.', digits @ ..]) if digits.len() <= 3 => (*whole, digits),
        _ => return None,
    };
    let mut thousandths = u16::from(whole - b'0') * 1000;
    for (digit, scale) in digits.iter().zip([100, 10, 1]) {
        thousandths += u16::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?) * scale;
    }
    (thousandths <= 1000).then_some(thousandths)
}
