//! The chips that can be had: their data sheets and prices, each with its source. `chips.toml`.

use crate::validate::{nearest, positive};
use lingot_spec::problem::{Problem, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The catalogue that comes with the program.
const BUILT_IN: &str = include_str!("../../../chips.toml");

/// The chips that can be planned with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// In the order of the file.
    #[serde(default, rename = "chip")]
    pub chips: Vec<Chip>,
}

/// One type of chip: its data sheet, and the price of an hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chip {
    /// The name that requests use, whatever its case.
    pub name: String,
    /// Who makes it.
    pub vendor: String,
    /// What drives it: `native` or `torch:...`; `none` where nothing does yet.
    pub route: String,
    /// Dense peak in FLOP/s by number type (`bf16`, `fp8`, `f32`).
    pub peak_flops: BTreeMap<String, f64>,
    /// Bytes of memory of one card.
    pub memory_bytes: f64,
    /// Bytes per second of its memory.
    pub bandwidth_bytes_s: f64,
    /// Bytes per second from one card to its neighbours inside the machine, in one direction.
    pub link_bytes_s: f64,
    /// Bytes per second of one card's share of the machine's network, in one direction.
    pub network_bytes_s: f64,
    /// Cards that share a machine.
    pub cards_per_machine: u32,
    /// Power of one card in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    /// Cards that can be had at once; a request may say fewer.
    pub available: u32,
    /// Source of the data sheet, and which of its numbers are assumed.
    pub source: String,
    /// The price of a card; none where no public price is known, and the user gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

/// The price of one card for one hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Money per hour.
    pub per_hour: f64,
    /// The currency of the price.
    pub currency: String,
    /// Where the price was published.
    pub source: String,
    /// When: `YYYY-MM` or `YYYY-MM-DD`.
    pub date: String,
}

/// A user's file: whole new chips, and new prices or availability of known ones.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRows {
    #[serde(default, rename = "chip")]
    chips: Vec<Chip>,
    #[serde(default, rename = "override")]
    overrides: Vec<Override>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Override {
    name: String,
    price: Option<Price>,
    available: Option<u32>,
}

impl Catalogue {
    /// Returns the catalogue that comes with the program.
    pub fn built_in() -> Result<Catalogue> {
        Catalogue::parse(BUILT_IN)
    }

    /// Reads a file such as `chips.toml`.
    ///
    /// Errors if a row is incomplete, impossible or there twice.
    pub fn parse(text: &str) -> Result<Catalogue> {
        let catalogue: Catalogue = toml::from_str(text).map_err(unreadable)?;
        catalogue.check()?;
        Ok(catalogue)
    }

    /// Returns this catalogue with a user's file laid over it: `[[chip]]` adds or replaces a row,
    /// `[[override]]` changes the price or the availability of one.
    pub fn with_user_rows(mut self, text: &str) -> Result<Catalogue> {
        let rows: UserRows = toml::from_str(text).map_err(unreadable)?;
        for chip in rows.chips {
            self.chips.retain(|known| !known.name.eq_ignore_ascii_case(&chip.name));
            self.chips.push(chip);
        }
        for change in rows.overrides {
            let at = self.position(&change.name)?;
            let chip = &mut self.chips[at];
            chip.price = change.price.or(chip.price.take());
            chip.available = change.available.unwrap_or(chip.available);
        }
        self.check()?;
        Ok(self)
    }

    /// Returns the chip of that name, whatever its case.
    ///
    /// Errors with the nearest name if there is none.
    pub fn chip(&self, name: &str) -> Result<&Chip> {
        Ok(&self.chips[self.position(name)?])
    }

    fn position(&self, name: &str) -> Result<usize> {
        self.chips.iter().position(|chip| chip.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let hint = nearest(name, self.chips.iter().map(|chip| chip.name.as_str()));
            Problem::new(
                format!("unknown chip `{name}`: it is none of the {} in the catalogue", self.chips.len()),
                hint,
            )
        })
    }

    fn check(&self) -> Result<()> {
        for (at, chip) in self.chips.iter().enumerate() {
            if self.chips[..at].iter().any(|other| other.name.eq_ignore_ascii_case(&chip.name)) {
                let hint = "use [[override]] to change its price";
                return Err(Problem::new(format!("chip `{}` is in the catalogue twice", chip.name), hint));
            }
            chip.check()?;
        }
        Ok(())
    }
}

impl Chip {
    /// Peak in FLOP/s in bf16, else in fp16, else in f32.
    pub fn peak(&self) -> f64 {
        let peak = |name| self.peak_flops.get(name).copied();
        peak("bf16").or_else(|| peak("fp16")).or_else(|| peak("f32")).unwrap_or(0.0)
    }

    fn check(&self) -> Result<()> {
        let key = |name: &str| format!("chip `{}`: {name}", self.name);
        for (name, flops) in &self.peak_flops {
            positive(&key(&format!("peak_flops.{name}")), *flops)?;
        }
        positive(&key("peak_flops of bf16, fp16 or f32"), self.peak())?;
        for (name, value) in [
            ("memory_bytes", self.memory_bytes),
            ("bandwidth_bytes_s", self.bandwidth_bytes_s),
            ("link_bytes_s", self.link_bytes_s),
            ("network_bytes_s", self.network_bytes_s),
            ("cards_per_machine", f64::from(self.cards_per_machine)),
            ("power_w", self.power_w.unwrap_or(1.0)),
            ("price.per_hour", self.price.as_ref().map_or(1.0, |price| price.per_hour)),
        ] {
            positive(&key(name), value)?;
        }
        Ok(())
    }
}

fn unreadable(error: toml::de::Error) -> Problem {
    Problem::new(
        format!("the catalogue cannot be read: {error}"),
        "chips.toml of the repository has rows with all keys",
    )
}
