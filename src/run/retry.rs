//! How long to wait before the next try or poll. Pure: the caller passes a random number in `[0, 1)`.

use std::time::Duration;

/// First and largest step of the back-off after a transient error.
const BASE: Duration = Duration::from_secs(2);
const CAP: Duration = Duration::from_secs(15 * 60);

/// Full jitter: uniform between 0 and `2 s × 2^(errors - 1)`, at most 15 min; never under 0.2 s, so that a dead vendor is not
/// hammered. `errors` counts this error too.
pub fn back_off(errors: u32, random: f64) -> Duration {
    let ceiling = BASE.saturating_mul(1 << errors.saturating_sub(1).min(20)).min(CAP);
    ceiling.mul_f64(random.clamp(0.0, 1.0)).max(Duration::from_millis(200))
}

/// Wait before poll number `polls + 1`: 2 s, ×1.5 up to 60 s, and 120 s once the task is half an hour old; ±20 % jitter.
pub fn poll_interval(polls: u32, age: Duration, random: f64) -> Duration {
    let base = if age >= Duration::from_secs(30 * 60) {
        Duration::from_secs(120)
    } else {
        // 1.5^9 × 2 s is past the cap, so a larger exponent changes nothing.
        Duration::from_secs(2)
            .mul_f64(1.5_f64.powi(i32::try_from(polls.min(9)).unwrap_or(9)))
            .min(Duration::from_secs(60))
    };
    base.mul_f64(0.8 + 0.4 * random.clamp(0.0, 1.0))
}

/// A `Retry-After`, in seconds or as an HTTP date, kept between 1 s and 1 h; 10 s when it cannot be read.
pub fn retry_after(value: Option<&str>, now: chrono::DateTime<chrono::Utc>) -> Duration {
    const UNREADABLE: Duration = Duration::from_secs(10);
    let Some(value) = value.map(str::trim) else { return UNREADABLE };
    let wait = if let Ok(seconds) = value.parse::<u64>() {
        Duration::from_secs(seconds)
    } else if let Ok(date) = chrono::DateTime::parse_from_rfc2822(value) {
        (date.to_utc() - now).to_std().unwrap_or(Duration::ZERO)
    } else {
        return UNREADABLE;
    };
    wait.clamp(Duration::from_secs(1), Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_from_two_seconds_to_a_quarter_of_an_hour() {
        let ceilings: Vec<u64> = (1..=11).map(|n| back_off(n, 1.0).as_secs()).collect();
        assert_eq!(ceilings, [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(back_off(5, 0.0), Duration::from_millis(200));
        assert_eq!(back_off(u32::MAX, 1.0).as_secs(), 900);
    }

    #[test]
    fn polls_come_fast_first_and_every_two_minutes_after_half_an_hour() {
        let polls: Vec<u64> = (0..11).map(|n| poll_interval(n, Duration::ZERO, 0.5).as_secs()).collect();
        assert_eq!(polls, [2, 3, 4, 6, 10, 15, 22, 34, 51, 60, 60]);
        assert_eq!(poll_interval(40, Duration::from_secs(1800), 0.5).as_secs(), 120);
        assert_eq!(poll_interval(0, Duration::ZERO, 0.0), Duration::from_millis(1600));
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_kept_within_a_second_and_an_hour() {
        let now = chrono::DateTime::parse_from_rfc3339("2026-11-20T10:00:00Z").unwrap().to_utc();
        assert_eq!(retry_after(Some("7"), now).as_secs(), 7);
        assert_eq!(retry_after(Some("Fri, 20 Nov 2026 10:00:30 GMT"), now).as_secs(), 30);
        assert_eq!(retry_after(Some("Fri, 20 Nov 2026 09:00:30 GMT"), now).as_secs(), 1);
        assert_eq!(retry_after(Some("999999999999"), now).as_secs(), 3600);
        assert_eq!(retry_after(Some("soon"), now).as_secs(), 10);
        assert_eq!(retry_after(None, now).as_secs(), 10);
    }
}
