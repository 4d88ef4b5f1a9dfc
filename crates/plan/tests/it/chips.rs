//! Chips that are made up for a test, as rows of a user's catalogue.

use lingot_plan::answer::Answer;
use lingot_plan::{Catalogue, Request, plan};
use std::collections::BTreeMap;

/// A chip with eight cards in a machine.
#[derive(Clone)]
pub(crate) struct Chip {
    pub(crate) name: String,
    pub(crate) vendor: String,
    pub(crate) memory_gb: f64,
    pub(crate) peak: f64,
    /// FLOPs of the peak per byte of the memory's bandwidth.
    pub(crate) flops_per_byte: f64,
    pub(crate) network_bytes_per_s: f64,
    pub(crate) per_hour: f64,
    pub(crate) available: u64,
}

impl Chip {
    fn row(&self) -> String {
        let Chip { name, vendor, available, per_hour, .. } = self;
        format!(
            "[[chip]]\nname = \"{name}\"\nvendor = \"{vendor}\"\nroute = \"none\"\n\
             peak_flops = {{ bf16 = {:e} }}\nmemory_bytes = {:e}\nbandwidth_bytes_s = {:e}\n\
             link_bytes_s = 2e11\nnetwork_bytes_s = {:e}\ncards_per_machine = 8\navailable = {available}\n\
             source = \"made up\"\n\
             [chip.price]\nper_hour = {per_hour}\ncurrency = \"USD\"\n\
             source = \"made up\"\ndate = \"2026\"\n",
            self.peak,
            self.memory_gb * 1e9,
            self.peak / self.flops_per_byte,
            self.network_bytes_per_s
        )
    }
}

/// The answer to a request, with these chips laid over the catalogue.
pub(crate) fn answered(request: &str, chips: &[Chip]) -> Answer {
    let rows: String = chips.iter().map(Chip::row).collect();
    let catalogue = Catalogue::built_in().unwrap().with_user_rows(&rows).unwrap();
    plan(&Request::parse(request).unwrap(), &catalogue, &BTreeMap::new()).unwrap()
}
