//! Waiting for a disk that is full or fails.

use lingot_spec::problem::{Problem, Result};
use std::time::Duration;

/// The first pause; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A wait is told once it has lasted this long.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// How long a run waits that was asked to stop: whoever asked may end it soon.
const HURRIED: Duration = Duration::from_secs(10);
/// How long reading is tried again.
pub(crate) const FOR_READING: Duration = Duration::from_secs(3);

/// Does `work` again while it fails in a way that may pass, for up to `limit`, or less where `is_hurried`. A
/// wait that takes longer is told to `say` once. Time is counted in pauses.
pub(crate) fn repeat<T>(
    limit: Duration,
    is_hurried: &dyn Fn() -> bool,
    say: &mut dyn FnMut(&Problem),
    mut work: impl FnMut() -> Result<T>,
) -> Result<T> {
    let (mut waited, mut pause, mut is_told) = (Duration::ZERO, FIRST_PAUSE, false);
    loop {
        let problem = match work() {
            Err(problem) if problem.kind.may_pass() => problem,
            done => return done,
        };
        let limit = if is_hurried() { limit.min(HURRIED) } else { limit };
        if waited >= limit {
            let waited_s = waited.as_secs_f64();
            let problem = Problem { problem: format!("{}, for {waited_s:.1} s", problem.problem), ..problem };
            return Err(problem);
        }
        if waited >= TOLD_AFTER && !is_told {
            say(&problem);
            is_told = true;
        }
        let now = pause.min(limit - waited);
        std::thread::sleep(now);
        waited += now;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// Does work that reads, again while it fails in a way that may pass.
pub(crate) fn reading<T>(work: impl FnMut() -> Result<T>) -> Result<T> {
    repeat(FOR_READING, &|| false, &mut |_| (), work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};
    use std::path::Path;

    fn failing(number: i32, times: &mut u32) -> Result<u32> {
        *times += 1;
        Err(Problem::io("write", Path::new("file"), &Error::from_raw_os_error(number)))
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_may_not_is_an_error_at_once() {
        for (number, is_repeated) in [(5, true), (28, true), (24, true), (2, false), (13, false), (30, false)]
        {
            let mut times = 0;
            let limit = Duration::from_millis(120);
            let error = repeat(limit, &|| false, &mut |_| (), || failing(number, &mut times)).unwrap_err();
            assert_eq!(times > 1, is_repeated, "{number} {error}");
            assert_eq!(error.problem.ends_with(", for 0.1 s"), is_repeated, "{error}");
        }
        let mut left = 3;
        let done = repeat(Duration::from_secs(60), &|| false, &mut |_| (), || {
            left -= 1;
            if left > 0 { failing(5, &mut 0) } else { Ok(7) }
        });
        assert_eq!(done.unwrap(), 7);
        let damaged = || -> Result<()> { Err(Problem::damaged("it is")) };
        assert_eq!(repeat(Duration::MAX, &|| false, &mut |_| (), damaged).unwrap_err().problem, "it is");
        let cut_short = Problem::io("read", Path::new("f"), &ErrorKind::UnexpectedEof.into());
        assert!(!cut_short.kind.may_pass());
    }
}
