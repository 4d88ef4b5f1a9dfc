//! What the terminal can show: colour, progress as a moving bar or as plain lines, and numbers with their
//! units.

use crate::output;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Without a terminal a line of progress is printed at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// On a terminal the bar is drawn at most this often.
const DRAW_EVERY: Duration = Duration::from_millis(50);

/// Moves the cursor to the beginning of the line and clears it.
const ERASE: &str = "\r\u{1b}[K";

/// What standard error can show.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    pub is_terminal: bool,
    has_colour: bool,
}

impl Terminal {
    /// Looks at the terminal. Colour also needs `NO_COLOR` (no-color.org) to be unset or empty.
    pub fn detect() -> Terminal {
        let is_terminal = std::io::stderr().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Terminal { is_terminal: is_terminal && !is_dumb, has_colour: is_terminal && !refused && !is_dumb }
    }

    pub fn red(&self, text: &str) -> Painted {
        self.paint("31;1", text)
    }

    pub fn yellow(&self, text: &str) -> Painted {
        self.paint("33;1", text)
    }

    pub fn bold(&self, text: &str) -> Painted {
        self.paint("1", text)
    }

    pub fn dim(&self, text: &str) -> Painted {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> Painted {
        let text = output::escaped(text);
        Painted(if self.has_colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.into_owned() })
    }
}

/// Text in a colour, where the terminal has colours; nothing else in it commands the terminal.
pub struct Painted(String);

impl fmt::Display for Painted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Progress of something that has a length: a bar on a terminal, elsewhere a line every few seconds.
pub struct Progress {
    is_bar: bool,
    /// The time when something was last shown.
    shown: Cell<Instant>,
    /// The bar on the terminal; empty for none.
    bar: RefCell<String>,
}

impl Progress {
    pub fn new(terminal: &Terminal) -> Progress {
        Progress { is_bar: terminal.is_terminal, shown: Cell::new(Instant::now()), bar: RefCell::default() }
    }

    /// Shows how far `label` has come.
    pub fn update(&self, label: &str, done: u64, total: u64, message: impl FnOnce() -> String) {
        let every = if self.is_bar { DRAW_EVERY } else { LINE_EVERY };
        let is_new = self.is_bar && !self.bar.borrow().starts_with(label);
        if !is_new && self.shown.get().elapsed() < every {
            return;
        }
        self.shown.set(Instant::now());
        if !self.is_bar {
            return output::notice(&format!("{label} {done}/{total} {}", message()));
        }
        *self.bar.borrow_mut() = format!("{label} [{}] {}", bar(done, total), output::escaped(&message()));
        output::draw(&self.drawn());
    }

    /// Prints a line that stays, above the bar.
    pub fn line(&self, text: &str) {
        self.draw_line(&output::escaped(text));
    }

    /// Prints a line that stays and begins with a label.
    pub fn labelled(&self, label: &Painted, text: &str) {
        self.draw_line(&format!("{label} {}", output::escaped(text)));
    }

    fn draw_line(&self, text: &str) {
        output::draw(&format!("{}{text}\n{}", if self.is_bar { ERASE } else { "" }, self.drawn()));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if !self.bar.take().is_empty() {
            output::draw(ERASE);
        }
    }

    /// The text that draws the bar again. A narrow terminal cuts it off instead of breaking the line.
    fn drawn(&self) -> String {
        match self.bar.borrow().as_str() {
            "" => String::new(),
            bar => format!("{ERASE}\u{1b}[?7l{bar}\u{1b}[?7h"),
        }
    }
}

/// The width of a bar, in characters.
const BAR: u64 = 24;

fn bar(done: u64, total: u64) -> String {
    let full = (BAR * done.min(total)).checked_div(total).unwrap_or(0) as usize;
    let bar = if full < BAR as usize { "=".repeat(full) + ">" } else { "=".repeat(full) };
    format!("{bar:<width$}", width = BAR as usize)
}

/// Shows the progress of a stage of the data preparation.
pub fn show_stage(progress: &Progress, stage: lingot_data::Stage) {
    let label = format!("{:<10}", stage.name);
    progress.update(&label, stage.done, stage.total, || {
        format!("{} of {}", bytes(stage.done), bytes(stage.total))
    });
}

/// `1234567` as `1.23 M`, in steps of a thousand.
pub fn count(number: f64) -> String {
    scaled(number, &["", " K", " M", " B", " T", " P"])
}

/// `1.2e10` as `12.0 GFLOP`.
pub fn flops(number: f64) -> String {
    scaled(number, &[" FLOP", " KFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP"])
}

/// `1234567` as `1.23 MB`.
pub fn bytes(number: u64) -> String {
    scaled(number as f64, &[" B", " kB", " MB", " GB", " TB", " PB"])
}

/// Money with three significant digits: `0.00123`, `12.3`, `5.08 M`.
pub fn amount(money: f64) -> String {
    let size = money.abs();
    if !size.is_finite() {
        return "unknown".into();
    }
    if size >= 1e4 || size == 0.0 {
        return count(money);
    }
    let digits = (2 - size.log10().floor() as i32).clamp(0, 12) as usize;
    format!("{money:.digits$}")
}

fn scaled(number: f64, units: &[&str]) -> String {
    let mut value = number;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 && value.fract() == 0.0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units[unit])
}

/// `3723` as `1 h 02 min`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=59 => format!("{whole} s"),
        60..=3599 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_to_its_full_width() {
        for (done, total, drawn) in [
            (0, 4, ">                       "),
            (1, 4, "======>                 "),
            (4, 4, "========================"),
            (9, 4, "========================"),
            (0, 0, ">                       "),
        ] {
            assert_eq!(bar(done, total), drawn);
        }
    }

    #[test]
    fn counts_keep_three_digits() {
        for (number, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1.00 K"),
            (16.8e9, "16.8 B"),
            (290.6e9, "291 B"),
            (12.34e3, "12.3 K"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(bytes(1_234_567), "1.23 MB");
    }

    #[test]
    fn money_keeps_three_digits_however_small() {
        for (money, text) in
            [(0.0, "0"), (0.001234, "0.00123"), (1.5, "1.50"), (1234.4, "1234"), (5.0812e6, "5.08 M")]
        {
            assert_eq!(amount(money), text);
        }
    }

    #[test]
    fn times_are_told_in_the_largest_fitting_units() {
        for (seconds, text) in [(3.21, "3.2 s"), (59.0, "59 s"), (83.0, "1 min 23 s"), (3723.0, "1 h 02 min")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
