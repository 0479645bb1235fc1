//! How fast a census goes. A million structs are half a gigabyte, and reading them at full speed
//! takes a core's worth of cache and memory bandwidth away from the program that is being read; so it
//! is done in small pieces with rests, spread over a time that is fixed beforehand. A census that is
//! behind (its thread had to wait for a CPU) rests less, so that it still ends in time. Must not know
//! what is read.

use std::time::{Duration, Instant};

/// Time set aside for each goroutine: a million take 1.2 s.
const EACH: Duration = Duration::from_nanos(1200);
/// Shorter rests are not worth the timer: they are saved up.
const SHORTEST: Duration = Duration::from_micros(200);
/// Longest rest: a clock that jumps must not end a census.
const LONGEST: Duration = Duration::from_millis(50);

/// When which part of a census is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    began: Instant,
}

impl Pace {
    /// From now on.
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// How long to rest after so many goroutines in all.
    pub fn rest_after(self, done: usize) -> Option<Duration> {
        rest(self.began.elapsed(), done)
    }
}

fn rest(elapsed: Duration, done: usize) -> Option<Duration> {
    let due = EACH.saturating_mul(u32::try_from(done).unwrap_or(u32::MAX));
    let ahead = due.saturating_sub(elapsed);
    (ahead >= SHORTEST).then(|| ahead.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn who_is_ahead_rests_and_who_is_behind_does_not() {
        assert_eq!(rest(ms(0), 0), None);
        assert_eq!(rest(ms(1), 10_000), Some(ms(11)));
        assert_eq!(rest(ms(12), 10_000), None);
        assert_eq!(rest(ms(500), 10_000), None);
        // Next to nothing is not worth a timer.
        assert_eq!(rest(ms(0), 150), None);
        assert_eq!(rest(ms(0), usize::MAX), Some(LONGEST));
    }

    #[test]
    fn a_million_end_in_time_however_slow_a_piece_is() {
        // Pieces of 300; every tenth has to wait 5 ms for a CPU.
        let (mut now, mut busy) = (Duration::ZERO, Duration::ZERO);
        for n in 1..=1_000_000 / 300 {
            let took = if n % 10 == 0 { ms(5) } else { Duration::from_micros(60) };
            busy += took;
            now += took;
            now += rest(now, n * 300).unwrap_or_default();
        }
        // It rested before the first of these waits only.
        assert!(busy > ms(1700) && now <= busy + ms(4), "{busy:?} of {now:?}");
        // And without such waits most of it is rest.
        let mut now = Duration::ZERO;
        for n in 1..=1_000_000 / 300 {
            now += Duration::from_micros(60);
            now += rest(now, n * 300).unwrap_or_default();
        }
        assert!((ms(1199)..ms(1201)).contains(&now), "{now:?}");
    }
}
