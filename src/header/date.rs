//! The Date of an answer (RFC 9110 §6.6.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// Returns the Date of an answer that is sent `now`. Each thread writes it once a second.
pub fn of(now: SystemTime) -> Option<HeaderValue> {
    thread_local! {
        static LAST: RefCell<Option<(u64, HeaderValue)>> = const { RefCell::new(None) };
    }
    let second = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    LAST.with_borrow_mut(|last| match last {
        Some((at, value)) if *at == second => Some(value.clone()),
        _ => {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            let value = HeaderValue::try_from(text).ok()?;
            *last = Some((second, value.clone()));
            Some(value)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_imf_fixdate_and_follows_the_clock() {
        let at = |seconds| of(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777).expect("a date"), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_777).expect("a date"), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778).expect("a date"), "Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
