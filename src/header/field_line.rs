//! Writes a field of an HTTP/1.1 head (RFC 9112 §5).

/// Appends the line of one field. Name and value are those of a `HeaderName` and a `HeaderValue`, or as valid.
pub fn append(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_is_name_colon_space_value() {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        super::append(&mut head, "X-Raw", b"\xe9");
        super::append(&mut head, "x-empty", b"");
        assert_eq!(head, b"HTTP/1.1 200 OK\r\nX-Raw: \xe9\r\nx-empty: \r\n");
    }
}
