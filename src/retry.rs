//! Backoff arithmetic: exponential with full jitter, a floor so that it never becomes a hot loop, and a cap on what a server may
//! ask for. No I/O, no clock, no protocol.

use std::time::Duration;

/// How long to wait between attempts.
///
/// The ceiling doubles with each failure from `initial` to `max`; the wait is drawn evenly between `floor` and the ceiling (full
/// jitter, so that many clients do not return together). What a server asks for (`Retry-After`, `RetryInfo`) is a lower
/// bound, itself capped by `max_server_wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first wait. Default 500 ms.
    pub initial: Duration,
    /// Ceiling of any wait. Default 30 s.
    pub max: Duration,
    /// Shortest wait. Default 50 ms.
    pub floor: Duration,
    /// Longest wait that a server may ask for. Default 5 min.
    pub max_server_wait: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(30),
            floor: Duration::from_millis(50),
            max_server_wait: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row (from 1), `random` being drawn evenly from 0 to 1.
    pub fn wait(&self, failures: u32, server: Option<Duration>, random: f64) -> Duration {
        let doubled = 2u32.checked_pow(failures.saturating_sub(1)).and_then(|factor| self.initial.checked_mul(factor));
        let ceiling = doubled.map_or(self.max, |ceiling| ceiling.min(self.max)).max(self.floor);
        let drawn = self.floor + (ceiling - self.floor).mul_f64(random.clamp(0.0, 1.0));
        match server {
            // Spread over the server's wait, never before it.
            Some(asked) => asked.min(self.max_server_wait) + drawn.min(self.initial),
            None => drawn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        initial: Duration::from_millis(100),
        max: Duration::from_secs(10),
        floor: Duration::from_millis(20),
        max_server_wait: Duration::from_secs(60),
    };

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let ceilings: Vec<_> = (1..=9).map(|failures| BACKOFF.wait(failures, None, 1.0).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }

    #[test]
    fn defect_4_many_retries_do_not_overflow() {
        assert_eq!(BACKOFF.wait(u32::MAX, None, 1.0), BACKOFF.max);
        assert_eq!(BACKOFF.wait(0, None, 1.0), BACKOFF.initial);
    }

    #[test]
    fn jitter_is_full_but_never_a_hot_loop() {
        assert_eq!(BACKOFF.wait(7, None, 0.0), BACKOFF.floor);
        assert_eq!(BACKOFF.wait(7, None, 0.5), Duration::from_millis(20 + (6400 - 20) / 2));
    }

    #[test]
    fn what_the_server_asks_is_a_lower_bound_and_capped() {
        let asked = Duration::from_secs(7);
        for random in [0.0, 0.3, 1.0] {
            assert!(BACKOFF.wait(1, Some(asked), random) >= asked);
        }
        assert!(BACKOFF.wait(1, Some(Duration::ZERO), 0.0) >= BACKOFF.floor, "a wait of 0 is no hot loop");
        let capped = BACKOFF.wait(1, Some(Duration::from_secs(1_000_000_000)), 1.0);
        assert!(capped <= BACKOFF.max_server_wait + BACKOFF.initial, "{capped:?}");
    }
}
